"""What a model is for, as its manifest declares it: how text and sound become its inputs, what its outputs mean.

The steps themselves are small functions in `edgert.runtime`; pictures have their own rules in `edgert.image_spec`.
Whether the files, parts and tensors that a task names are there is left to `edgert.manifest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields

from edgert.errors import nearest
from edgert.json_fields import (
    Fields,
    checked_real,
    checked_text,
    checked_whole,
    kind,
    refused,
)

KINDS = (
    "image-classification",
    "text-classification",
    "audio-classification",
    "sentence-embedding",
    "feature-extraction",
    "classification",
    "speech-to-text",
)
SCORES = ("softmax", "sigmoid", "none")
FEATURES = ("waveform", "log-mel")

MAX_TOKENS = 1_000_000
MAX_TOKEN = (1 << 31) - 1
MAX_SECONDS = 3600.0
SAMPLE_RATES = (1000, 768_000)  # Hz, the lowest and the highest
MAX_N_FFT = 1 << 16
MAX_MELS = 1024


@dataclass(frozen=True)
class TextSpec:
    """How text becomes tokens: `tokenizer` is a file of the bundle; `ids`, `mask`, `types` are inputs, "" for none.

    With no `ids` the tokenizer only turns tokens into text. `max_tokens` is what a text is cut to.
    """

    tokenizer: str
    max_tokens: int
    ids: str
    mask: str = ""
    types: str = ""


@dataclass(frozen=True)
class AudioSpec:
    """How sound becomes an input: mono at `sample_rate` Hz, cut and padded with zeros to `seconds` (0: as it is).

    `features` "waveform" feeds the samples themselves, with mean 0 and variance 1 where `normalise`; "log-mel" the
    features of Whisper: `n_fft` and `hop` in samples, `mels` bands.
    """

    input: str
    features: str
    sample_rate: int
    seconds: float = 0.0
    n_fft: int = 0
    hop: int = 0
    mels: int = 0
    normalise: bool = False


@dataclass(frozen=True)
class GenerateSpec:
    """How tokens are generated one by one, greedily, with the graph of the part `decoder`.

    `cross`: output of the main graph -> input of the decoder that takes it at every step. `cache`: input of the decoder
    -> the output that is its value at the next step; at the first step its free dimension is 0. The tokens `prompt` are
    fed first; `end` ends; `suppress` never come, `suppress_first` not as the first token after the prompt.
    `max_tokens` counts the prompt too.
    """

    decoder: str
    ids: str
    logits: str
    prompt: tuple[int, ...]
    end: tuple[int, ...]
    max_tokens: int
    cross: Mapping[str, str] = field(default_factory=dict, hash=False)
    cache: Mapping[str, str] = field(default_factory=dict, hash=False)
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """What the model is for: `kind`, the `output` that matters, and what turns it into words.

    `labels` is a file of the bundle, a JSON list of class names; `scores` says what makes probabilities of `output`.
    """

    kind: str
    output: str
    labels: str = ""
    scores: str = "none"
    text: TextSpec | None = None
    audio: AudioSpec | None = None
    generate: GenerateSpec | None = None

    def to_json(self) -> dict[str, object]:
        """Return the form that a manifest holds: the fields by name, those with their default left out."""
        return _members(self)

    @classmethod
    def from_json(cls, document: object, what: str = "task") -> "Task":
        """Read what `to_json` wrote; `what` names the document in the BadInput that any defect raises.

        An unknown key is refused: a step that is left out would make wrong answers, silently.
        """
        entry = Fields(document, what)
        task = cls(
            kind=_one_of(entry, "kind", KINDS),
            output=entry.text("output"),
            labels=_file(entry, "labels"),
            scores=_one_of(entry, "scores", SCORES) if entry.has("scores") else "none",
            text=_text(_section(entry, "text")) if entry.has("text") else None,
            audio=_audio(_section(entry, "audio")) if entry.has("audio") else None,
            generate=_generate(_section(entry, "generate")) if entry.has("generate") else None,
        )
        _refuse_rest(entry)
        _check_sense(task, what)
        return task


def _members(item: Task | TextSpec | AudioSpec | GenerateSpec) -> dict[str, object]:
    """Return the JSON members of one dataclass, without those that have their default."""
    members: dict[str, object] = {}
    for entry in fields(item):
        value = getattr(item, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if value != default:
            members[entry.name] = _plain(value)
    return members


def _plain(value: object) -> object:
    if isinstance(value, TextSpec | AudioSpec | GenerateSpec):
        return _members(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _section(entry: Fields, key: str) -> Fields:
    return Fields(entry.value(key), entry.path(key))


def _text(entry: Fields) -> TextSpec:
    spec = TextSpec(
        tokenizer=entry.name("tokenizer"),
        max_tokens=entry.whole("max_tokens", 1, MAX_TOKENS),
        ids=_tensor(entry, "ids"),
        mask=_tensor(entry, "mask"),
        types=_tensor(entry, "types"),
    )
    _refuse_rest(entry)
    return spec


def _audio(entry: Fields) -> AudioSpec:
    spec = AudioSpec(
        input=entry.text("input"),
        features=_one_of(entry, "features", FEATURES),
        sample_rate=entry.whole("sample_rate", *SAMPLE_RATES),
        seconds=checked_real(entry.value("seconds"), entry.path("seconds"), 0.0, MAX_SECONDS)
        if entry.has("seconds")
        else 0.0,
        n_fft=_size(entry, "n_fft", MAX_N_FFT),
        hop=_size(entry, "hop", MAX_N_FFT),
        mels=_size(entry, "mels", MAX_MELS),
        normalise=_flag(entry, "normalise"),
    )
    _refuse_rest(entry)
    if spec.features == "log-mel" and not (spec.n_fft > 1 and spec.hop and spec.mels):
        raise refused(f"{entry.path('features')} is 'log-mel', which needs n_fft above 1, hop and mels")
    return spec


def _generate(entry: Fields) -> GenerateSpec:
    spec = GenerateSpec(
        decoder=entry.name("decoder"),
        ids=entry.text("ids"),
        logits=entry.text("logits"),
        prompt=_tokens(entry, "prompt"),
        end=_tokens(entry, "end"),
        max_tokens=entry.whole("max_tokens", 1, MAX_TOKENS),
        cross=_names(entry, "cross"),
        cache=_names(entry, "cache"),
        suppress=_tokens(entry, "suppress") if entry.has("suppress") else (),
        suppress_first=_tokens(entry, "suppress_first") if entry.has("suppress_first") else (),
    )
    _refuse_rest(entry)
    for key, tokens in (("prompt", spec.prompt), ("end", spec.end)):
        if not tokens:
            raise refused(f"{entry.path(key)} is empty")
    if len(spec.prompt) >= spec.max_tokens:
        raise refused(f"{entry.path('prompt')} has {len(spec.prompt)} tokens, max_tokens is {spec.max_tokens}")
    return spec


def _one_of(entry: Fields, key: str, known: Sequence[str]) -> str:
    word = entry.text(key)
    if word not in known:
        near = nearest(word, known)
        hint = f"did you mean '{near}'?" if near else f"known: {', '.join(known)}"
        raise refused(f"{entry.path(key)} is '{word}'; {hint}")
    return word


def _file(entry: Fields, key: str) -> str:
    """Return a flat name, "" where there is none."""
    return entry.name(key) if entry.has(key) and entry.value(key) != "" else ""


def _tensor(entry: Fields, key: str) -> str:
    """Return the name of a tensor, "" where there is none."""
    return entry.text(key) if entry.has(key) and entry.value(key) != "" else ""


def _size(entry: Fields, key: str, most: int) -> int:
    return entry.whole(key, 0, most) if entry.has(key) else 0


def _flag(entry: Fields, key: str) -> bool:
    value = entry.value(key) if entry.has(key) else False
    if not isinstance(value, bool):
        raise refused(f"{entry.path(key)} is {kind(value)}, true or false is expected")
    return value


def _tokens(entry: Fields, key: str) -> tuple[int, ...]:
    path = entry.path(key)
    return tuple(checked_whole(item, f"{path}[{i}]", 0, MAX_TOKEN) for i, item in enumerate(entry.items(key)))


def _names(entry: Fields, key: str) -> dict[str, str]:
    if not entry.has(key):
        return {}
    path = entry.path(key)
    return {checked_text(name, path): checked_text(value, path) for name, value in entry.table(key).items()}


def _refuse_rest(entry: Fields) -> None:
    for key in entry.rest():
        raise refused(f"{entry.path(key)} is not known")


def _check_sense(task: Task, what: str) -> None:
    """Raise BadInput where one part of a task needs another that is not there."""
    if task.kind == "speech-to-text" and not (task.audio and task.text and task.generate):
        raise refused(f"{what} 'kind' is 'speech-to-text', which needs audio, text and generate")
    if task.generate and task.kind != "speech-to-text":
        raise refused(f"{what} 'generate' is there, but 'kind' is '{task.kind}'")
