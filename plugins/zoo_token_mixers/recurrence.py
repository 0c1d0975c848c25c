"""Recurrence: token i is read after token i - 1 and sees no later one. Wraps torch's layers.

    rnn    h = tanh(W x + U h)                                              (Elman 1990)
    lstm   i, f, o = sigmoid(...); c = f c + i tanh(...); h = o tanh(c)     (Hochreiter and Schmidhuber 1997; Gers 2000)
    gru    r, z = sigmoid(...); h = z h + (1 - z) tanh(W x + r (U h + b))   (Cho et al. 2014)

Width and hidden width are both C; the states start at zero; the output is the hidden state of each token.
The GRU resets after the product with U, as cuDNN does; the paper resets before it, which costs the same.

On the meta device torch takes every step in Python: milliseconds a token. What is counted there is not run.
"""

from __future__ import annotations

from torch import Tensor, nn


class Recurrence(nn.Module):
    """One layer of torch's, in one direction."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, each with those before it: (B, N, C) -> (B, N, C)."""
        hidden: Tensor = self.layer(x)[0]
        return hidden


# -- built by name -------------------------------------------------------------------------------------------


def rnn(size: int, width: int) -> nn.Module:
    """Return an RNN with tanh; it takes any number of tokens."""
    return Recurrence(nn.RNN(width, width, batch_first=True))


def lstm(size: int, width: int) -> nn.Module:
    """Return an LSTM; it takes any number of tokens."""
    return Recurrence(nn.LSTM(width, width, batch_first=True))


def gru(size: int, width: int) -> nn.Module:
    """Return a GRU; it takes any number of tokens."""
    return Recurrence(nn.GRU(width, width, batch_first=True))
