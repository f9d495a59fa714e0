import torch

from ommatid.nn.mixers import Attention, Windowed


def test_every_window_is_a_map_of_its_own() -> None:
    attention = Attention(8, 2)
    x = torch.randn(2, 6, 8, 8)
    mixed = Windowed(attention, (3, 4))(x)
    for top in (0, 3):
        for left in (0, 4):
            window = (slice(None), slice(top, top + 3), slice(left, left + 4))
            torch.testing.assert_close(mixed[window], attention(x[window]))


def test_other_sizes_are_padded_with_zeros() -> None:
    windowed = Windowed(Attention(8, 2), (3, 4))
    x = torch.randn(1, 5, 6, 8)
    padded = torch.zeros(1, 6, 8, 8)
    padded[:, :5, :6] = x
    torch.testing.assert_close(windowed(x), windowed(padded)[:, :5, :6])


def test_shifted_windows_wrap_around() -> None:
    attention = Attention(8, 2)
    x = torch.randn(1, 6, 6, 8)
    mixed = Windowed(attention, (3, 3), shift=1)(x)
    torch.testing.assert_close(mixed[:, 1:4, 1:4], attention(x[:, 1:4, 1:4]))
    around = [4, 5, 0]
    torch.testing.assert_close(mixed[:, around][:, :, around], attention(x[:, around][:, :, around]))
