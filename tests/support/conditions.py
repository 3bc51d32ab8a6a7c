"""What a condition holds, for tests of models that read words through cross-attention."""

from torch import Tensor

from headwater.models.condition import Condition


def words_of(condition: Condition) -> Tensor:
    """The text encoder's hidden states."""
    return condition.tensors["encoder_hidden_states"]
