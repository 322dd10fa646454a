"""Fuzz of the ingest of exports, guided by coverage.

``pip install atheris``, then ``python -m mars_assets_tests.fuzz_exports CORPUS_FOLDER [libFuzzer's options]``, for
example ``-max_total_time=3600 -rss_limit_mb=4000 -timeout=60``. An input is an inbox: a zip of its zips, so that
``unzip`` shows what led to a failure. An empty folder is filled with the seeds of
:mod:`mars_assets_tests.labels.fuzz`, which are more where MARS_SHARED is set. An input is run again by giving its
file instead of the folder.
"""

import sys
import time
from pathlib import Path
from random import Random


def check(content: bytes) -> bool:
    """Check an input, and tell whether its exports were read."""
    from mars_assets_tests.labels.fuzz import check_ingest, unpacked

    return check_ingest(unpacked(content))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["mars_assets"]):
        from mars_assets_tests.labels.fuzz import changed_inbox, packed, seeds, unpacked

        seeds()  # which imports the rest
    begun = last = time.monotonic()
    executions = read = 0

    def mutated(content: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        inbox = unpacked(content) or random.choice(seeds())
        changed = packed(changed_inbox(inbox, random, lambda part, _: bytes(atheris.Mutate(part, len(part) + 16))))
        return changed if len(changed) <= most else content

    def target(content: bytes) -> None:
        nonlocal executions, read, last
        executions += 1
        read += check(content)
        if (now := time.monotonic()) > last + 60:
            print(f"{(now - begun) / 60:.0f} minutes, {executions} executions, {read} inboxes read", flush=True)
            last = now

    corpus = Path(next(argument for argument in sys.argv[1:] if not argument.startswith("-")))
    if corpus.is_dir() and not any(corpus.iterdir()):
        for number, inbox in enumerate(seeds()):
            (corpus / f"seed{number}.zip").write_bytes(packed(inbox))
    # Inputs have their full length from the beginning: half a zip is none.
    atheris.Setup([*sys.argv, "-len_control=0", "-max_len=1000000"], target, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
