"""litellm's client before a server, for an interpreter that has it: prints what it got, as JSON."""

import json
import sys
from typing import Any

import litellm

given: dict[str, Any] = {
    "model": "openai/xrouter",
    "api_base": f"{sys.argv[1]}/v1",
    "api_key": "any",
    "messages": [{"role": "user", "content": "Hi"}],
}
whole = litellm.completion(**given)
chunks = litellm.completion(**given, stream=True)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
status = None
try:
    litellm.completion(**{**given, "model": "openai/gpt-9"})
except litellm.NotFoundError as caught:
    status = caught.status_code
told = {
    "text": whole.choices[0].message.content,
    "streamed": streamed,
    "tokens": whole.usage.completion_tokens,
    "status": status,
}
sys.stdout.write(json.dumps(told) + "\n")
