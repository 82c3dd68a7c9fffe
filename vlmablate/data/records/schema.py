"""The record that every importer makes: a picture, or none, and turns of a dialogue about it."""

from __future__ import annotations

from dataclasses import dataclass

from vlmablate.vlm.prompts import Turn


@dataclass(frozen=True)
class Record:
    """One sample of instruction data.

    Attributes:
        id: ``source/…`` from the official id, so that records join over machines.
        picture: where it is, relative to the folder of the source's pictures. None for text alone.
        turns: human and gpt in turn, the human first, the last of gpt. A mark of the picture (``<image>``) is taken
            out of the text: where the picture stands is for the model to say.
        task: what the source calls this kind of instruction, such as LRV-Instruction's ``negative``; empty where it
            has no word for it.
    """

    id: str
    picture: str | None
    turns: tuple[Turn, ...]
    task: str = ""

    @property
    def negative(self) -> bool:
        """Whether it asks about what is not there, as its source says."""
        return self.task.strip().lower().startswith("negative")
