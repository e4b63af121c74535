"""Seeds of the episodes that an expert learns from."""

from ilt.experts.seeding import SeedStream
from tests.experts.toys import learned_from


def test_seeds_come_from_the_whole_demonstrations_block_and_the_entropy_decides_their_order() -> None:
    streams = [SeedStream(learned_from(500, 10), entropy) for entropy in ([0, 0], [0, 0], [0, 64], [1, 0])]
    first, again, resumed, other = ([stream.next() for _ in range(500)] for stream in streams)
    assert set(first) == set(range(500, 510))
    assert first == again
    assert first not in (resumed, other)
