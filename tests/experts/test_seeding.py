"""Seeds of the episodes that an expert learns from."""

from dataclasses import replace

from ilt.experts.seeding import SeedStream
from tests.toys import BLOCKS, countdown


def test_the_stream_stays_in_the_demonstrations_block_and_reaches_all_of_it() -> None:
    spec = replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (500, 10)})
    stream = SeedStream(spec, [0])
    assert {stream.next() for _ in range(500)} == set(range(500, 510))


def test_the_entropy_decides_the_stream() -> None:
    streams = [SeedStream(countdown(), entropy) for entropy in ([0, 0], [0, 0], [0, 64], [1, 0])]
    first, again, resumed, other = ([stream.next() for _ in range(20)] for stream in streams)
    assert first == again
    assert first != resumed
    assert first != other
