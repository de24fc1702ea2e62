#!/usr/bin/env python3
"""Tells the races of this crate from what ThreadSanitizer cannot know.

`races.py LOG` reads what ThreadSanitizer wrote to LOG.*, prints every report that counts and fails if
there is one; with `--twin` it fails if there is none, for a build that was weakened on purpose. A report
counts if one of its two accesses was made under code of this crate's `src`, unless it is excused. What a
waker does is done by whoever made the waker: code of ours that wakes one counts no more than a test does.
(An executor's locks are the standard library's, which is not built for ThreadSanitizer.) Excused is one
thing only:

    The later access takes apart what an `Arc` held, for its last owner, with no code of ours in between.
    It is ordered behind the accesses of the other owners by a fence inside the standard library's
    `Arc::drop_slow`, and ThreadSanitizer knows no fences. (A standard library built for it would have
    an access there; that needs its sources, which this does not ask for.)

An access after the end, which is the other way round, counts; so does any other kind of report.
`--self-test` proves that each rule can fail.
"""

import re
import sys
import unittest
from collections import Counter
from pathlib import Path

SOURCES = str(Path(__file__).resolve().parent.parent / "src") + "/"

REPORT = re.compile(r"^WARNING: ThreadSanitizer: (.*?) \(pid=.*?\n(.*?)^={18}$", re.M | re.S)
ACCESS = re.compile(
    r"^  (?:Previous )?(?:atomic )?(?:write|read) of size[^\n]*\n((?:    #[^\n]*\n)+)", re.M | re.I
)

# Where the slow half is not on the stack, it is a part of the drop.
END = re.compile(r"<alloc::sync::Arc<.*(>::drop_slow|> as core::ops::drop::Drop>::drop) ")


# What lies within, a waker does.
WAKER = re.compile(r"<core::task::wake::Waker(>::| as core::)")


def doers(stack):
    """The frames of an access up to the waker that it is done by, if it is."""
    return stack[: next((i for i, frame in enumerate(stack) if WAKER.search(frame)), None)]


def is_ours(frame):
    return f" {SOURCES}" in frame


def verdict(kind, body):
    """What a report is: `foreign`, `excused`, or `ours`."""
    stacks = [found.splitlines() for found in ACCESS.findall(body)]
    if kind == "data race":
        stacks = [doers(stack) for stack in stacks]
    # Of a report of another kind, or of an unknown form, every frame counts.
    frames = [frame for stack in stacks for frame in stack] or body.splitlines()
    if not any(is_ours(frame) for frame in frames):
        return "foreign"
    later = stacks[0] if stacks else []
    ends = [i for i, frame in enumerate(later) if END.search(frame)]
    if kind == "data race" and ends and not any(is_ours(frame) for frame in later[: ends[0]]):
        return "excused"
    return "ours"


def main(log, twin):
    found = Counter()
    for path in sorted(log.parent.glob(log.name + ".*")):
        for kind, body in REPORT.findall(path.read_text(errors="replace")):
            result = verdict(kind, body)
            found[result] += 1
            if result == "ours" and not twin:
                print(f"{kind}\n{body}")
    print(f"{found['ours']} reports that count, {found['excused']} excused, {found['foreign']} foreign")
    if twin:
        return found["ours"] == 0
    return found["ours"] > 0


def sample(later, earlier, kind="data race"):
    """A report in the form of ThreadSanitizer, of these frames."""
    def stack(frames):
        return "".join(f"    #{i} {frame} (it+0x{i})\n" for i, frame in enumerate(frames))
    return (
        f"==================\nWARNING: ThreadSanitizer: {kind} (pid=1)\n"
        f"  Write of size 8 at 0x1 by thread T1:\n{stack(later)}\n"
        f"  Previous atomic read of size 8 at 0x1 by main thread:\n{stack(earlier)}\n"
        f"  Thread T1 created by main thread at:\n{stack(['spawn ' + SOURCES + 'bus.rs:1:1'])}\n"
        f"SUMMARY: ThreadSanitizer: {kind}\n==================\n"
    )


class Test(unittest.TestCase):
    RING = f"<phalanx::bus::ring::Ring<u64>>::commit {SOURCES}bus/ring.rs:296:27"
    DROP = "<alloc::sync::Arc<phalanx::bus::shared::Shared<u64>>>::drop_slow /rustc/alloc/src/sync.rs:1:1"
    TEST = f"it::bus::oracle {SOURCES.removesuffix('src/')}tests/it/bus/oracle.rs:1:1"

    def check(self, expected, *report, **kind):
        found = [verdict(*parts) for parts in REPORT.findall(sample(*report, **kind))]
        self.assertEqual(found, [expected])

    def test_code_of_ours_on_either_side_counts(self):
        self.check("ours", ["memcpy", self.RING], ["clone", self.TEST])
        self.check("ours", ["clone", self.TEST], [self.RING])

    def test_code_of_others_does_not(self):
        self.check("foreign", ["free", self.TEST], ["memcpy /root/.cargo/registry/src/x/src/lib.rs:1:1"])

    def test_what_a_waker_of_others_does_is_theirs(self):
        wake = "<core::task::wake::Waker>::wake /rustc/library/core/src/task/wake.rs:1:1"
        self.check("foreign", ["<Vec>::pop", "tokio::schedule", wake, self.RING], ["<Vec>::push"])
        self.check("ours", ["<Vec>::pop", self.RING, wake, self.RING], ["<Vec>::push"])
        self.check("ours", ["<Vec>::pop", "tokio::schedule", wake], [self.RING])
        # It is for us to wake none that is gone.
        self.check("ours", ["x::schedule", wake, self.RING], ["free"], kind="heap-use-after-free")

    def test_the_end_of_an_arc_is_excused(self):
        self.check("excused", ["free", self.DROP, self.RING], [self.RING])
        whole = "<alloc::sync::Arc<std::thread::Inner> as core::ops::drop::Drop>::drop /rustc/x.rs:1:1"
        self.check("excused", ["free", whole], [self.RING])

    def test_but_not_an_access_after_it(self):
        self.check("ours", [self.RING], ["free", self.DROP])
        self.check("ours", ["free", self.DROP], [self.RING], kind="heap-use-after-free")

    def test_nor_code_of_ours_within_it(self):
        self.check("ours", ["read", self.RING, self.DROP], [self.RING])

    def test_a_report_of_another_form_counts_by_any_frame(self):
        report = f"WARNING: ThreadSanitizer: lock-order-inversion (pid=1)\n  Cycle:\n    #0 {self.RING}\n"
        self.assertEqual([verdict(*found) for found in REPORT.findall(report + "=" * 18)], ["ours"])


if __name__ == "__main__":
    if "--self-test" in sys.argv:
        unittest.main(argv=[sys.argv[0]])
    *options, log = sys.argv[1:]
    sys.exit(main(Path(log), "--twin" in options))
