"""What is judged against, and on which text: files, each under a name of its own, or what the original writes itself.

`de=notizen.txt` is the file `notizen.txt`, called `de` in every table: so a domain or a language is named. `self` is
text that the original writes, taken alone where no text is given. JSONL lines with `messages` go through the model's
chat template (calibration/corpora.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.api.models import adapter_folder, model_folder
from bitwright.core.errors import InputError, UsageError
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.records import QuantRecord

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows

SELF = "self"
SELF_SEED_OFFSET = 1000  # evaluation text is never sampled with a seed that calibration is likely to use
SEED = 1  # windows from all of a text; 0 takes them in order from its start
SELF_TEMPERATURE = 0.8  # the usual default of engines: judged on what the model writes when it is used


@dataclasses.dataclass(frozen=True, slots=True)
class NamedText:
    """One text. No path: the original writes it. No name: the file's own."""

    path: Path | None
    name: str = ""


def named_texts(words: Sequence[Path | str]) -> tuple[NamedText, ...]:
    """The texts of `--text`: FILE, NAME=FILE or self. Raises `InputError` where a file is missing, `UsageError` for
    two texts of one name.
    """
    found = tuple(_named(str(word)) for word in words) or (NamedText(None),)
    names = [text.name or (text.path.name if text.path else SELF) for text in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two validation texts are called `{name}`", hint="name one of them: --text NAME=FILE")
    return found


def files_among(words: Sequence[Path | str]) -> list[Path]:
    """The files of `--text`, which may not be calibration text too. Raises as `named_texts`."""
    return [text.path for text in named_texts(words) if text.path is not None]


def _named(word: str) -> NamedText:
    if word == SELF:
        return NamedText(None)
    name, equals, rest = word.partition("=")
    path, name = (Path(rest), name) if equals and not Path(word).exists() else (Path(word), "")
    if not path.is_file():
        raise InputError(f"evaluation text `{path}` does not exist", hint="check the path given to --text")
    return NamedText(path, name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Where the windows of texts come from. `folder` holds the reference's tokenizer, `original` its weights.

    Windows that the original wrote are kept, because they take it a minute.
    """

    texts: tuple[NamedText, ...]
    folder: Path
    original: WeightSource
    length: int
    seed: int
    progress: Progress = SILENT
    written: dict[tuple[int, int], TokenWindows] = dataclasses.field(default_factory=dict)  # windows [start, stop)

    def windows(self, index: int, start: int, stop: int) -> TokenWindows | None:
        """Windows [start, stop) of text `index`; fewer or none where it ends."""
        from bitwright.calibration.corpora import make_windows, windows_from_files

        text = self.texts[index]
        if text.path is None:
            return self._written(start, stop)
        whole = windows_from_files([str(text.path)], self.folder, stop, self.length, self.seed)
        if len(whole.tokens) <= start:
            return None
        return make_windows(text.name or whole.name, whole.tokens[start:])

    def first(self, windows: int) -> list[TokenWindows]:
        """The first windows of every text. Raises `InputError` where a text does not fill one."""
        found = (self.windows(index, 0, windows) for index in range(len(self.texts)))
        return [text for text in found if text is not None]

    def calibrated(self, path: Path, made: QuantRecord) -> str:
        """The hash of the windows that the calibration of `made` would have drawn from a text; empty where the text
        is too short for one.
        """
        from bitwright.calibration.corpora import windows_from_files

        asked = made.calibration
        try:
            return windows_from_files([str(path)], self.folder, asked.samples, asked.length, asked.seed).sha256
        except InputError:
            return ""

    def most(self, windows: int) -> int:
        """How many windows the longest text has, at most `windows`."""
        if any(text.path is None for text in self.texts):
            return windows  # there is always more of it
        return max(len(text.tokens) for text in self.first(windows))

    def _written(self, start: int, stop: int) -> TokenWindows:
        from bitwright.calibration.selftext import self_windows
        from bitwright.formats.original import other_weights

        if (start, stop) not in self.written:
            self.written[start, stop] = self_windows(
                self.folder,
                stop - start,
                self.length,
                self.seed + SELF_SEED_OFFSET + start,
                temperature=SELF_TEMPERATURE,
                source=other_weights(self.folder, self.original),
                progress=self.progress,
            )
        return self.written[start, stop]


def supply_of(
    reference: Path | str,
    *,
    lora: Path | str | None = None,
    texts: Sequence[Path | str],
    length: int,
    seed: int,
    progress: Progress = SILENT,
) -> Supply:
    """The original, any model that can be read, or a float one with an adapter merged in; and the texts.

    Raises as `named_texts` and `model_folder`, and what opening the model raises.
    """
    from bitwright.formats.original import open_original
    from bitwright.formats.sniff import open_source

    named, folder, adapter = named_texts(texts), model_folder(reference, progress=progress), adapter_folder(lora)
    original = open_source(folder) if adapter is None else open_original(folder, adapter)
    return Supply(texts=named, folder=folder, original=original, length=length, seed=seed, progress=progress)
