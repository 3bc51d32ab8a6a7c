"""What can go wrong, by name. Every message is one line: the thing, and how to mend it."""

from __future__ import annotations

# What the command line says of Ctrl-C.
INTERRUPTED = "interrupted; finished work is kept, the same command goes on from there"


class HeadwaterError(Exception):
    """Base of all errors that the user can mend."""


class ModelError(HeadwaterError):
    """The model is missing, cannot be read, or is of a family that is not supported."""


class DatasetError(HeadwaterError):
    """The training images are missing, cannot be read, or have no stable ids."""


class BadImageError(DatasetError):
    """One file of the data set is truncated or no image."""


class QueryError(HeadwaterError):
    """The question makes no sense for this prompt, index or method."""


class MethodError(HeadwaterError):
    """There is no such method, or it cannot take this question."""


class ParameterError(HeadwaterError):
    """The parameter filter matches nothing, or more dimensions are asked for than there are."""


class StoreError(HeadwaterError):
    """The index on disk is missing, incomplete, damaged or of another format version."""


class MismatchError(StoreError):
    """The index on disk was begun with another recipe, model or data set."""


class NonFiniteError(HeadwaterError):
    """A feature row came out as NaN, infinite or all zero."""


class SelfCheckError(HeadwaterError):
    """The engine's gradients are not those of autograd on this model, or in this precision."""


class ResourceError(HeadwaterError):
    """The disk is full or memory ran out; what was finished is kept."""


class HeadwaterWarning(UserWarning):
    """Something that the answer silently depends on, such as words a caption lost."""


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
