#!/usr/bin/env python3
"""Breaks the policies of the fleet on purpose, one operator at a time, and tells what no test noticed.

Every mutant is woven into one copy of the sources below `target/mutants` (`.ci/mutants` does it), which is built
once; a variable of the environment says which of them is on. Each flips one comparison or boolean operator, leaves a
`!` of a condition out, swaps a minimum for a maximum or `true` for `false` in a `return`, or adds nothing where one
was added or taken: outside of tests, constants and assertions. Then the tests of its module run, until one fails, and
those of the fleet's behaviour if none did. A mutant on which all pass has survived, and fails this script, unless
`EQUAL` says why it cannot be told from the original, or `MODELLED` which model under loom or shuttle tells.

A mutant on which the tests do not end counts as noticed, and so does one that does not compile: both are counted apart.

    mutants.py               all of them
    mutants.py --sample N    N of them, spread over the files; which ones the last commit decides
    mutants.py --only TEXT   those whose name holds TEXT
    mutants.py --list        their names
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from random import Random
from threading import Timer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CRATE = ROOT / "target" / "mutants"

# What is mutated, and the unit tests that have to notice; for `None`, those of the fleet's behaviour alone.
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
    "fleet/graph.rs": "fleet::graph",
    "fleet/history.rs": "fleet::history",
    "fleet/lanes.rs": "fleet::lanes",
    "fleet/leaving.rs": None,
    "fleet/dependencies.rs": "fleet::dependencies",
    "fleet/keyed.rs": None,
    "fleet/request.rs": "fleet::request",
    "fleet/timers.rs": None,
    "fleet/supervision/circuit.rs": "fleet::supervision",
    "fleet/supervision/heartbeats.rs": "fleet::supervision",
    "fleet/pool/batches.rs": "fleet::pool",
    "fleet/pool/buy.rs": "fleet::pool",
    "fleet/pool/census.rs": "fleet::pool",
    "fleet/pool/desk.rs": "fleet::pool",
    "fleet/pool/find.rs": "fleet::pool",
    "fleet/pool/floors.rs": "fleet::pool",
    "fleet/pool/gather.rs": "fleet::pool",
    "fleet/pool/health.rs": "fleet::pool",
    "fleet/pool/index.rs": "fleet::pool",
    "fleet/pool/pick.rs": "fleet::pool",
    "fleet/pool/score.rs": "fleet::pool",
    "fleet/pool/shard.rs": "fleet::pool",
    "fleet/pool/slot.rs": "fleet::pool",
    "fleet/pool/strategy.rs": "fleet::pool",
    "fleet/pool/tasks.rs": "fleet::",
    "fleet/pool/timed.rs": "fleet::pool",
    "fleet/pool/waiting.rs": "fleet::pool",
    "fleet/pool/wheel.rs": "fleet::pool",
}
# Those who notice what the unit tests did not.
BEHAVIOUR = "fleet::"

# Mutants that are the same as the original, by file and (part of the line, operator, replacement), and the function
# where another has such a line.
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
    "fleet/lanes.rs": {
        ("*last < place", "<", "<="): "no two entries have one place",
    },
    "fleet/pool/batches.rs": {
        ("self.gatherers.iter().filter(is_for).min()", "min", "max"): "of those that gather one at most is for an agent",
        ("self.waiting > 0", ">", ">=", "grant"): "where nobody waits, who collects has it decided anew",
        ("*other != place", "!=", "==", "remove"): "who takes it out has it decided anew who gathers",
    },
    "fleet/pool/buy.rs": {
        ("*place < ticket.place", "<", "<="): "no two of those who wait have one place",
    },
    "fleet/pool/desk.rs": {
        ("self.names.len() > before", ">", ">="): "where no name came, nobody learns one",
        ("before && !self.learners", "&&", "||"): "where no name came, nobody learns one, and nobody where nobody is to",
        ("return true;", "true", "false", "offer"): "the plan that is made right after offers it again",
        ("Fit::BestFraction || names", "||", "&&"): "who asks for none knows all, and so does who asks for all and may wait",
        ("with(limit) >= count", ">=", ">"): "at equality both branches are enough",
        ("self.waiting.len() > 0", ">", ">="): "who looks for askers finds none",
        ("self.batches.waiting() > 0", ">", ">="): "who looks for askers finds none",
        ("ticket.place < batch", "<", "<="): "no two of those who wait have one place",
        (".max().unwrap_or(0) + count", "max", "min"): "who raises the least alone raises it by all of them",
        ("+ count + 1", "1", "0"): "what is left of one level is dealt one by one",
        ("below(middle) <= count", "<=", "<"): "what is left of one level is dealt one by one",
    },
    "fleet/pool/find.rs": {
        ("ask.mask == 0 || shard", "||", "&&"): "the other way takes as good a one, by a longer look",
        ("|| !strategy.exceeds", "||", "&&"): "a look into all shards finds as good a one",
    },
    "fleet/pool/floors.rs": {
        ("shards.min(WIDTH)", "min", "max"): "behind the shards nothing is better",
    },
    "fleet/pool/gather.rs": {
        ("ticket.place < place", "<", "<="): "no two of those who wait have one place",
    },
    "fleet/pool/index.rs": {
        ("return false", "false", "true"): "a floor that did not change is written again as it is",
        ("rank < self.best", "<", "<="): "at equality the best is written again as it is",
    },
    "fleet/pool/pick.rs": {
        ("self.expire_due() > 0", ">", ">="): "where nothing expired, nobody has come free",
    },
    "fleet/pool/score.rs": {
        ("self.success >= 1.0", ">=", ">"): "what is divided by one is the same",
    },
    "fleet/pool/shard.rs": {
        ("found < best", "<", "<="): "no two agents of a shard are the same",
        ("self.stirred && std::mem::take", "&&", "||"): "a floor that did not change is written again as it is",
    },
    "fleet/pool/timed.rs": {
        ("ttl.is_some() && !self.expires", "&&", "||"): "who looks for what has expired finds nothing",
        ("due < self.watch_at", "<", "<="): "whoever watches for that moment already is not told",
        ("due >= self.look_at", ">=", ">"): "whoever looks at that moment already is woken in vain",
        ("since > 0", ">", ">="): "a time is read that counts for nothing",
        ("if due < before", "<", "<="): "whoever watches for that moment already is told again",
    },
    "fleet/pool/tasks.rs": {
        ("if !self.is_watched() {", "!", ""): "it is asked again under the lock; the other way takes longer",
        ("if !self.is_watched() &&", "!", ""): "the other way, where nobody waits, takes longer; where somebody has begun to, the models see",
        ("self.known.remove(&agent) &&", "&&", "||"): "the line is looked through more often than it pays",
        ("self.line.len() > 2", ">", ">="): "the line is looked through one agent sooner",
    },
    "fleet/pool/waiting.rs": {
        ("ask.fit == Fit::BestFraction", "==", "!="): "those of one lane stay those of one lane",
    },
    "fleet/pool/wheel.rs": {
        ("LEVELS as u32 - 1", "1", "0"): "the ticks have no more digits than there are levels",
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

# Mutants that only another thread in between tells from the original: the models do, which are run apart.
MODELLED = {
    "fleet/budget/account.rs": {
        ("step.is_ok() && self.hard", "&&", "||"): "loom_who_waits_for_room_has_it_or_is_told_of_it",
    },
}

# What the copy holds of the library and of its tests; the fleet knows of no other part.
MODULES = {"clock", "error", "fleet", "sync"}
COPIED_TESTS = ["fleet", "resident"]
BEHAVIOUR_MAIN = "//! The fleet's behaviour.\n" + "".join(f"mod {name};\n" for name in COPIED_TESTS)
# Functions that are constant stay so: they may read a variable as long as nothing evaluates them while compiling.
SWITCH = """//! Which mutant is on: none, if the variable is not set.
#![allow(unsafe_code)]
use std::sync::atomic::{AtomicU32, Ordering};

static ON: AtomicU32 = AtomicU32::new(0);

extern "C" fn read() {
    if let Ok(number) = std::env::var("PHALANX_MUTANT") {
        ON.store(number.parse().expect("a mutant is a number"), Ordering::Relaxed);
    }
}

// Runs before anything else does.
#[used]
#[unsafe(link_section = ".init_array")]
static READ: extern "C" fn() = read;

#[inline]
pub(crate) const fn on(number: u32) -> bool {
    // SAFETY: Nothing writes it once the program runs.
    (unsafe { *ON.as_ptr() }) == number
}
"""

# How many times as long as with no mutant the tests may take, and seconds beside; beyond, they hang.
PATIENCE, GRACE = 4, 15
# The most memory that tests may take, in bytes: a mutant may well ask for all there is.
MEMORY = 8 << 30


class Mutant:
    def __init__(self, printed):
        number, self.file, self.function, line, column, self.old, self.new, *ranges = printed.split("\t")
        self.number, self.line, self.column = int(number), int(line), int(column)
        # In the copy: of its own text, and of all that replaces the expression it changes.
        start, end, self.start, self.end = map(int, ranges)
        self.own = range(start, end)
        self.text = (ROOT / "src" / self.file).read_text().splitlines()[self.line - 1]

    def __str__(self):
        return f"{self.file}:{self.line}:{self.column + 1}: `{self.old}` to `{self.new}`: {self.text.strip()}"

    def excuse(self):
        """What `EQUAL` or `MODELLED` knows it by, if no test need notice it."""
        for known in [*EQUAL.get(self.file, {}), *MODELLED.get(self.file, {})]:
            part, old, new, *functions = known
            if (old, new) != (self.old, self.new) or functions not in ([], [self.function]):
                continue
            for found in re.finditer(re.escape(part), self.text):
                if found.start() <= self.column < found.end():
                    return known
        return None


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
    """The sources without mutants, and what is built beside them."""
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
{wanted("dev-dependencies", ["proptest", "tempfile", "tokio"])}
[profile.dev]
debug = false
opt-level = 1
incremental = true
""")
    if not (CRATE / "Cargo.lock").exists():
        write(CRATE / "Cargo.lock", (ROOT / "Cargo.lock").read_text())
    dropped = lambda found: found[0] if found[1] in MODULES else ""
    root = re.sub(r"^(?:pub )?mod (\w+);\n", dropped, (ROOT / "src" / "lib.rs").read_text(), flags=re.M)
    texts = {Path("src/lib.rs"): f"#![allow(warnings)]\n{root}\nmod mutant;\n", Path("src/mutant.rs"): SWITCH,
             Path("tests/it/main.rs"): BEHAVIOUR_MAIN}
    for folder, names in [("src", MODULES), ("tests/it", COPIED_TESTS)]:
        for name in names:
            for file in [ROOT / folder / f"{name}.rs", *(ROOT / folder / name).rglob("*.rs")]:
                texts[file.relative_to(ROOT)] = file.read_text()
    for path, text in texts.items():
        # What has mutants is written with them.
        if str(path.relative_to(path.parts[0])) not in POLICIES:
            write(CRATE / path, text)
    for folder in ["src", "tests"]:
        for file in (CRATE / folder).rglob("*.rs"):
            if file.relative_to(CRATE) not in texts:
                file.unlink()


def weave(without):
    """Writes the sources with their mutants, but for those without, and tells of all."""
    said = subprocess.run([CRATE / "tool" / "debug" / "phalanx-mutants", ROOT / "src", CRATE / "woven",
                           ",".join(map(str, sorted(without))) or "-", *POLICIES],
                          check=True, capture_output=True, text=True).stdout
    for file in POLICIES:
        write(CRATE / "src" / file, (CRATE / "woven" / file).read_text())
    return [Mutant(line) for line in said.splitlines()]


def make_tool():
    for file in POLICIES:
        (CRATE / "woven" / file).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--manifest-path", HERE / "mutants" / "Cargo.toml"],
                   check=True, env={**os.environ, "CARGO_TARGET_DIR": str(CRATE / "tool")})


def build():
    """The paths of the test binaries, by name, or None and what was wrong where: messages of the compiler."""
    command = ["cargo", "test", "--lib", "--test", "it", "--no-run", "--quiet", "--message-format", "json"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(CRATE / "target")}
    done = subprocess.run(command, cwd=CRATE, stdout=subprocess.PIPE, text=True, env=environment)
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0:
        executables = (message for message in messages if message.get("executable"))
        return {message["target"]["name"]: message["executable"] for message in executables}, []
    found = [message["message"] for message in messages if message["reason"] == "compiler-message"]
    return None, [message for message in found if message["level"] == "error"]


def refused_by(errors, mutants):
    """Whom the compiler refused: the innermost mutant where an error is; or else all of the innermost expression."""
    refused = set()
    for error in errors:
        size, numbers = None, set()
        for span in error["spans"]:
            place = range(span["byte_start"], span["byte_end"])
            for mutant in mutants:
                if not span["is_primary"] or span["file_name"] != f"src/{mutant.file}" or not mutant.own:
                    continue
                inside = lambda start, end: start <= place.start and place.stop <= end
                if inside(mutant.own.start, mutant.own.stop):
                    found = (0, len(mutant.own))
                elif inside(mutant.start, mutant.end):
                    found = (1, mutant.end - mutant.start)
                else:
                    continue
                if size is None or found < size:
                    size, numbers = found, set()
                if found == size:
                    numbers.add(mutant.number)
        if error["spans"] and not numbers:
            raise SystemExit(f"the copy does not build:\n{error['rendered']}")
        refused |= numbers
    if not refused:
        raise SystemExit("the copy does not build")
    return refused


def limit():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


class Tests:
    """Tests of a binary, and how long they take."""

    def __init__(self, binary, tests):
        self.command = [binary, "--test-threads", "2", tests]
        self.patience = 600
        started = time.monotonic()
        verdict, said = self.run(0)
        if verdict != "passed":
            raise SystemExit(f"the tests {tests} fail with no mutant on: {said}")
        self.patience = PATIENCE * (time.monotonic() - started) + GRACE

    def run(self, number):
        """Runs them until one fails: `passed`, `failed` or `hung`, and what told."""
        # A failing property would write its case down, and the next run would begin with it.
        environment = {"PATH": "/usr/bin:/bin", "PROPTEST_FAILURE_PERSISTENCE": "off", "RUST_BACKTRACE": "0",
                       "PHALANX_MUTANT": str(number)}
        ran = subprocess.Popen(self.command, cwd=CRATE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               errors="replace", env=environment, preexec_fn=limit)
        hung = []
        timer = Timer(self.patience, lambda: (hung.append(True), ran.kill()))
        timer.start()
        failed, ended = None, False
        for line in ran.stdout:
            found = re.match(r"test (\S+).* FAILED$", line)
            if found:
                failed = found[1]
                break
            ended = ended or bool(re.match(r"test result: ok\. [1-9]", line))
        timer.cancel()
        if failed:
            ran.kill()
        ran.stdout.close()
        code = ran.wait()
        if failed:
            return "failed", failed
        if hung:
            return "hung", "no end"
        if code != 0:
            return "failed", f"status {code}"
        if not ended:
            raise SystemExit(f"no test was run: {self.command}")
        return "passed", ""


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--sample", type=int)
    arguments.add_argument("--only", default="")
    arguments.add_argument("--list", action="store_true")
    chosen = arguments.parse_args()
    started = time.monotonic()
    make_tool()
    make_crate()
    every = weave([])
    mutants = [mutant for mutant in every if chosen.only in str(mutant)]
    if chosen.sample and chosen.sample < len(mutants):
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
        places = sorted(Random(commit).sample(range(len(mutants)), chosen.sample))
        mutants = [mutants[place] for place in places]
    if chosen.list:
        print(*mutants, sep="\n")
        return
    said = {(file, *key) for listed in [EQUAL, MODELLED] for file, keys in listed.items() for key in keys}
    said -= {(mutant.file, *mutant.excuse()) for mutant in every if mutant.excuse()}
    if said:
        raise SystemExit(f"these are listed as equal or modelled, but are no mutants: {sorted(said)}")
    binaries, errors, refused = None, None, set()
    while binaries is None:
        binaries, errors = build()
        if binaries is None:
            refused |= refused_by(errors, every)
            every = weave(refused)
    print(f"{len(every)} mutants built, {time.monotonic() - started:.0f} s", flush=True)
    runs = {tests: Tests(binaries["phalanx"], tests) for tests in sorted({*POLICIES.values()} - {None})}
    behaviour = Tests(binaries["it"], BEHAVIOUR)
    print(f"all pass with none on, {time.monotonic() - started:.0f} s", flush=True)

    def judge(mutant):
        if mutant.excuse():
            return "equal", ""
        if mutant.number in refused:
            return "refused", ""
        unit = POLICIES[mutant.file]
        verdict = runs[unit].run(mutant.number) if unit else ("passed", "")
        return verdict if verdict[0] != "passed" else behaviour.run(mutant.number)

    counts = dict.fromkeys(["failed", "hung", "refused", "equal", "passed"], 0)
    # Two at a time: tests have threads of their own.
    with ThreadPoolExecutor(2) as pool:
        judged = {pool.submit(judge, mutant): mutant for mutant in mutants}
        for count, done in enumerate(as_completed(judged), 1):
            verdict, by = done.result()
            counts[verdict] += 1
            if verdict != "failed":
                print(f"{'survived' if verdict == 'passed' else verdict}: {judged[done]}", flush=True)
            if count % 25 == 0:
                print(f"{count} of {len(mutants)}, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(mutants)} mutants: tests noticed {counts['failed']} and did not end on {counts['hung']}, the compiler "
          f"refused {counts['refused']}, {counts['equal']} are equal to the original or for the models, "
          f"{counts['passed']} survived; {time.monotonic() - started:.0f} s")
    if counts["passed"]:
        sys.exit(1)


main()
