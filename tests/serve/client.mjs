// OpenAI's JavaScript client before a server: prints what it got, as JSON.
import { createRequire } from "node:module";
const OpenAI = createRequire(import.meta.url)("openai").default;
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "any", maxRetries: 0 });
const asked = { model: "xrouter", messages: [{ role: "user", content: "Hi" }] };
const whole = await client.chat.completions.create(asked);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
  streamed += chunk.choices[0]?.delta?.content ?? "";
const response = await client.responses.create({ model: "large", input: "Hi" });
let error = null;
try {
  await client.chat.completions.create({ ...asked, model: "gpt-9" });
} catch (caught) {
  error = [caught.status, caught.code];
}
const text = whole.choices[0].message.content;
console.log(JSON.stringify({ text, streamed, response: response.output_text, error }));
