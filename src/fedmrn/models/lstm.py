"""A recurrent network that predicts the next character of a text."""

from torch import Tensor, nn

_EMBEDDING = 8


class CharacterLSTM(nn.Module):
    """Predict the next character of a text: an embedding, LSTM layers, and a linear layer on the last state.

    The embedding has 8 dimensions; no layer has a bias. Takes codes of characters, integers of any type, shape
    (n, length); returns logits, shape (n, characters).

    Source: the appendix of the published experiments of FedMRN (one layer of 256, dropout 1/2), after LEAF's model.

    Args:
        characters: how many different ones there are.
        hidden: width of an LSTM layer.
        layers: how many LSTM layers.
        dropout: share of dropped values of the state that the linear layer sees.
    """

    def __init__(self, characters: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, _EMBEDDING)
        self.lstm = nn.LSTM(_EMBEDDING, hidden, layers, bias=False, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, characters, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (n, characters), for codes of characters, shape (n, length)."""
        states, _ = self.lstm(self.embedding(x.long()))
        logits: Tensor = self.linear(self.dropout(states[:, -1]))
        return logits
