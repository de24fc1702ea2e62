#!/usr/bin/env python3
"""Breaks the policies of the fleet on purpose, one operator at a time, and tells what no test noticed.

The policies (restarts, breakers, heartbeats, backoff, budgets, plans of scaling, forecasts) are pure: they
are copied into a small crate under `target/mutants`, which builds in seconds, with nothing of the fleet but
its names beside them. Each mutant flips one comparison, one boolean operator or literal, or swaps a minimum
for a maximum, outside of tests; then the tests of its module run. A mutant on which they pass has survived,
and fails this script, unless `EQUAL` says why it cannot be told from the original, or `MODELLED` which
model under loom tells.

    mutants.py               all of them
    mutants.py --sample N    N of them, spread over the files; which ones the last commit decides
    mutants.py --only TEXT   those whose name holds TEXT
    mutants.py --list        their names
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "target" / "mutants"

# What is mutated, and the tests that have to notice.
POLICIES = {
    "fleet/backoff.rs": "fleet::backoff",
    "fleet/budget.rs": "fleet::budget",
    "fleet/budget/account.rs": "fleet::budget",
    "fleet/budget/reservation.rs": "fleet::budget",
    "fleet/supervise/breaker.rs": "fleet::supervise::breaker",
    "fleet/supervise/heartbeat.rs": "fleet::supervise::heartbeat",
    "fleet/supervise/restart.rs": "fleet::supervise::restart",
    "fleet/supervise/stuck.rs": "fleet::supervise::stuck",
    "fleet/supervise/window.rs": "fleet::supervise",
    "fleet/scale/forecast.rs": "fleet::scale",
    "fleet/scale/forecast/backtest.rs": "fleet::scale",
    "fleet/scale/observation.rs": "fleet::scale",
    "fleet/scale/plan.rs": "fleet::scale",
    "fleet/scale/policy.rs": "fleet::scale",
    "fleet/scale/window.rs": "fleet::scale",
}

# Mutants that are the same as the original, by file and (part of the line, operator, replacement).
EQUAL = {
    "fleet/backoff.rs": {
        ("percent > 100", ">", ">="): "at 100 both branches are 100",
        ("grown < cap", "<", "<="): "at the cap both branches are the cap",
    },
    "fleet/budget.rs": {
        ("most > GREATEST_LIMIT", ">", ">="): "at the greatest limit both branches are it",
    },
    "fleet/budget/account.rs": {
        ("new > self.peak", ">", ">="): "a peak that is stored again is the same peak",
        ("amount > 0", ">", ">="): "giving nothing back changes nothing",
    },
    "fleet/budget/reservation.rs": {
        ("missing > 0", ">", ">="): "taking nothing more changes nothing, and warns of nothing",
    },
    "fleet/scale/forecast.rs": {
        ("spread <= 1e-9", "<=", "<"): "at equality it is 0, and the quotient, no number, is refused below",
    },
    "fleet/scale/forecast/backtest.rs": {
        ("gap > 0.0", ">", ">="): "nothing is due that was not due at the same moment before",
    },
    "fleet/supervise/window.rs": {
        ("*other <= moment", "<=", "<"): "equal moments are the same in any order",
    },
}

# Mutants that only another thread in between tells from the original: the models of `loom` do, which are run apart.
MODELLED = {
    "fleet/budget/account.rs": {
        ("step.is_ok() && self.hard", "&&", "||"): "loom_who_waits_for_room_has_it_or_is_told_of_it",
    },
}

# What stands beside the policies in the small crate; the rest of the fleet stays away.
COPIED = ["clock.rs", "error.rs", "sync.rs", "sync", "fleet/id.rs", "fleet/backoff.rs", "fleet/budget.rs",
          "fleet/budget", "fleet/supervise.rs", "fleet/supervise", "fleet/scale.rs", "fleet/scale"]
LIB = """//! The policies of the fleet, alone.
#![allow(dead_code, unused_imports, unreachable_pub)]
mod clock;
mod error;
mod sync;
pub mod fleet;
pub use clock::*;
pub use error::*;
"""
FLEET = """//! What the policies see of the fleet.
mod backoff;
mod budget;
mod id;
pub mod scale;
pub mod supervise;
pub use backoff::*;
pub use budget::*;
pub use id::*;
"""
# These of `fleet/scale` act on a fleet.
ACTORS = ["autoscaler", "observe", "system", "warm", "waves"]

SWAPS = {
    " < ": [" <= ", " >= "],
    " <= ": [" < ", " > "],
    " > ": [" >= ", " <= "],
    " >= ": [" > ", " < "],
    " == ": [" != "],
    " != ": [" == "],
    " && ": [" || "],
    " || ": [" && "],
    ".min(": [".max("],
    ".max(": [".min("],
    ".is_some()": [".is_none()"],
    ".is_none()": [".is_some()"],
    "if !": ["if "],
    "return false": ["return true"],
    "return true": ["return false"],
}
OPERATOR = re.compile("|".join(re.escape(text) for text in sorted(SWAPS, key=len, reverse=True)))
# Longer than any test of a policy takes; a mutant that loops is noticed by it.
PATIENCE = 120


class Mutant:
    def __init__(self, file, line, column, text, old, new):
        self.file, self.line, self.column, self.text, self.old, self.new = file, line, column, text, old, new

    def __str__(self):
        return f"{self.file}:{self.line}: `{self.old.strip()}` to `{self.new.strip()}`: {self.text.strip()}"

    def reason(self):
        """Why no test need notice it, if somebody said so: it is the same as the original, or what models it."""
        for (part, old, new), reason in [*EQUAL.get(self.file, {}).items(), *MODELLED.get(self.file, {}).items()]:
            if part in self.text and (old, new) == (self.old.strip(), self.new.strip()):
                return reason
        return None

    def apply(self, source):
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1]
        assert line[self.column :].startswith(self.old), self
        lines[self.line - 1] = line[: self.column] + self.new + line[self.column + len(self.old) :]
        return "".join(lines)


def masked(source):
    """The source without what is no code of its own: strings, comments, attributes."""
    noise = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|^\s*#!?\[[^\n]*', re.M | re.S)
    return noise.sub(lambda found: re.sub(r"[^\n]", "_", found[0]), source)


def mutants_of(file):
    source = (ROOT / "src" / file).read_text()
    lines = source.splitlines()
    for number, code in enumerate(masked(source).splitlines(), 1):
        line = lines[number - 1]
        if re.match(r"#\[cfg\(.*\btest\b", line) and "mod tests {" in "".join(lines[number : number + 2]):
            return
        # What is asserted of constants, or while debugging, is a test itself.
        if re.search(r"debug_assert|const _: \(\) = assert!", line):
            continue
        for found in OPERATOR.finditer(code):
            for new in SWAPS[found[0]]:
                yield Mutant(file, number, found.start(), line, found[0], new)


def write(path, text):
    """Writes a file only if it changes, so that nothing is built for nothing."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def section(manifest, name):
    """The lines of one table of a manifest."""
    found = re.search(rf"^\[{re.escape(name)}\]\n(.*?)(?=^\[|\Z)", manifest, re.M | re.S)
    return found[1] if found else ""


def make_crate():
    manifest = (ROOT / "Cargo.toml").read_text()
    wanted = lambda table, names: "\n".join(
        line for line in section(manifest, table).splitlines() if line.split(" = ")[0] in names
    )
    linux = "target.'cfg(target_os = \"linux\")'.dependencies"
    write(CRATE / "Cargo.toml", f"""[package]
name = "phalanx"
version = "0.0.0"
edition = "2024"
[workspace]
[features]
default = ["test-util"]
test-util = []
[dependencies]
{wanted("dependencies", ["crossbeam", "parking_lot", "lock_api", "thiserror", "futures-core"])}
[{linux}]
{section(manifest, linux)}
[dev-dependencies]
{wanted("dev-dependencies", ["proptest"])}
[lints.rust]
unexpected_cfgs = "allow"
[profile.dev]
debug = false
opt-level = 1
incremental = true
""")
    lock = ROOT / "Cargo.lock"
    if not (CRATE / "Cargo.lock").exists():
        write(CRATE / "Cargo.lock", lock.read_text())
    sources = {CRATE / "src" / "lib.rs": LIB, CRATE / "src" / "fleet.rs": FLEET}
    for name in COPIED:
        path = ROOT / "src" / name
        for file in sorted(path.rglob("*.rs")) if path.is_dir() else [path]:
            sources[CRATE / "src" / file.relative_to(ROOT / "src")] = file.read_text()
    scale = CRATE / "src" / "fleet" / "scale.rs"
    for actor in ACTORS:
        sources[scale] = re.sub(rf"^mod {actor};\n|^pub use {actor}::[^;]*;\n", "", sources[scale], flags=re.M)
    for path, text in sources.items():
        write(path, text)


def build():
    """The path of the test binary, or None if it does not compile."""
    command = ["cargo", "test", "--lib", "--no-run", "--quiet", "--message-format", "json"]
    done = subprocess.run(command, cwd=CRATE, capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stdout + done.stderr
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            return message["executable"], ""
    raise SystemExit("cargo built no test binary")


def passes(binary, tests):
    # A failing property would write its case down, and the next run would begin with it.
    environment = {"PATH": "/usr/bin:/bin", "PROPTEST_FAILURE_PERSISTENCE": "off", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run([binary, "--quiet", tests], cwd=CRATE, capture_output=True, text=True,
                              timeout=PATIENCE, env=environment)
    except subprocess.TimeoutExpired:
        return False
    if " 0 passed" in done.stdout and done.returncode == 0:
        raise SystemExit(f"no test is named {tests}")
    return done.returncode == 0


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sample", type=int)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--list", action="store_true")
    chosen = arguments.parse_args()
    mutants = [mutant for file in POLICIES for mutant in mutants_of(file) if chosen.only in str(mutant)]
    if chosen.sample and chosen.sample < len(mutants):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
        places = sorted(Random(commit).sample(range(len(mutants)), chosen.sample))
        mutants = [mutants[place] for place in places]
    if chosen.list:
        print(*mutants, sep="\n")
        return
    make_crate()
    binary, said = build()
    if binary is None:
        raise SystemExit(f"the policies do not build alone:\n{said}")
    for tests in sorted(set(POLICIES.values())):
        if not passes(binary, tests):
            raise SystemExit(f"the tests {tests} fail before anything is mutated")
    noticed, equal, refused, survived, started = 0, 0, 0, [], time.monotonic()
    for count, mutant in enumerate(mutants, 1):
        if mutant.reason():
            equal += 1
            continue
        path = CRATE / "src" / mutant.file
        original = path.read_text()
        path.write_text(mutant.apply(original))
        try:
            binary, _ = build()
            if binary is None:
                refused += 1
            elif passes(binary, POLICIES[mutant.file]):
                survived.append(mutant)
                print(f"survived: {mutant}", flush=True)
            else:
                noticed += 1
        finally:
            path.write_text(original)
        if count % 25 == 0:
            print(f"{count} of {len(mutants)}, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(mutants)} mutants: tests noticed {noticed}, the compiler {refused}, "
          f"{equal} are equal to the original or for the models, {len(survived)} survived")
    if survived:
        sys.exit(1)


main()
