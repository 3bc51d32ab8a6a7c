"""A session: an index opened once, with its model, and asked many times."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

from headwater.attribution.answer.result import Attribution
from headwater.attribution.attributor import Options, attribute, attribute_all
from headwater.attribution.resources import Resources
from headwater.attribution.trajectory import attribute_steps
from headwater.index.index import Index
from headwater.queries.image import Image
from headwater.queries.query import Question
from headwater.runtime.executor import THIS_PROCESS, Executor


class Session(Resources):
    """An index that is asked. Several threads may share one: they are answered one by one.

    The live model, CLIP, the kernel and drawn pictures stay in memory between questions.

    Args:
        index: what is asked.
        executor: who reads its rows, where one process would take too long for them:
            `Executor("local", jobs=4)`, or `Executor("ray", jobs=64)` for a cluster, whose nodes
            see the index's folder. The model is asked by this process.

    >>> import tempfile
    >>> from headwater import Concept, Denoiser, build_index, load_dataset
    >>> model, images = Denoiser.load("scenes"), load_dataset("scenes").first(8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     session = Session(build_index(model, images, folder, timesteps=1, dim=64))
    ...     attribution = session.attribute(Concept("a red star", "star", draws=2))
    >>> [entry.rank for entry in attribution.top(3)]
    [1, 2, 3]
    """

    @classmethod
    def open(cls, path: str | Path, executor: Executor = THIS_PROCESS, **options: Any) -> Session:
        """A session on the index in a folder; `options` are those of `Index.open`.

        Raises:
            StoreError: there is none, it is unfinished, damaged, or of another format version.
        """
        return cls(Index.open(path, **options), executor)

    @overload
    def attribute(self, query: Question, **options: Any) -> Attribution: ...
    @overload
    def attribute(
        self, query: list[Question] | tuple[Question, ...], **options: Any
    ) -> list[Attribution]: ...
    def attribute(
        self, query: Question | list[Question] | tuple[Question, ...], **options: Any
    ) -> Attribution | list[Attribution]:
        """Score every training image for a question, or for each of several.

        Several share a pass over the index, so that ask them together if there are many.

        Args:
            query: a question, or a list of them, which is answered by a list.
            options: by the names of `attributor.Options`: `method`, `damping`, `candidates`,
                `fresh`, `note`.

        Raises:
            MethodError: no such method, it cannot take the query, or the index does not serve it.
            MismatchError: the model has changed since the index was built.
        """
        with self.lock:
            if isinstance(query, (list, tuple)):
                return attribute_all(self, query, Options(**options))
            return attribute(self, query, Options(**options))

    def attribute_steps(self, query: Image, **options: Any) -> list[Attribution]:
        """An attribution for each step of a picture's making: see `trajectory.attribute_steps`."""
        with self.lock:
            return attribute_steps(self, query, Options(**options))
