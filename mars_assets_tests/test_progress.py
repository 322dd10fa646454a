from mars_assets.progress import Progress


def test_every_item_passes_and_the_end_is_always_said() -> None:
    lines: list[str] = []
    assert list(Progress(lines.append).track(range(3), "cutting")) == [0, 1, 2]
    assert len(lines) == 1
    assert lines[0].startswith("cutting: 3 in ")


def test_how_far_how_fast_how_long_yet() -> None:
    lines: list[str] = []
    for _ in Progress(lines.append, every=0).track([1, 2], "scaling"):
        pass
    assert lines[0].startswith("scaling: 1/2, ")
    assert "/s" in lines[0]
    assert lines[0].endswith("left")


def test_silence_is_silent() -> None:
    assert list(Progress().track([1], "nothing")) == [1]


def test_notes_and_units() -> None:
    lines: list[str] = []
    counter = Progress(lines.append, every=0).counter("training", 10, "steps")
    counter.advance(5, note="loss 0.3")
    counter.close("best 0.2")
    assert "5/10 steps" in lines[0]
    assert lines[0].endswith("loss 0.3")
    assert lines[1].endswith("best 0.2")
