#!/usr/bin/env python3
"""Watches what a durable state asks of the system, and tells whether it is enough to survive a loss of power.

A test of `tests/it` runs under strace; it makes a store, appends groups, writes a checkpoint and an export, and
says on its standard output when it believes what to be durable. From the calls a model of the disk is made. At
each such line these rules have to hold:

1. Whatever was written to a file under its final name was synced since.
2. A file was synced before it got a final name by a rename, and was not written to in between.
3. A folder in which a file, a folder or a link was made, or to which one was renamed, was synced since.
4. Of two files that are renamed into one folder the first is synced there before the second comes: the header of a
   store must not be found without its data.
5. A group of commits is one sync, and no other call that syncs.

Then each sync in turn is left out of the model, and a rule has to break. Where it opens, makes or closes its file
the engine syncs several times, and a later one covers an earlier one: those are listed, and no other.

    syncs.py FLAGS...    builds the test with these flags for cargo, runs it and checks
    syncs.py --log LOG   checks what strace wrote before
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = "state::synced::the_script_that_strace_watches"
CALLS = ("openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,msync,sync,syncfs,"
         "rename,renameat,renameat2,mkdir,mkdirat,symlink,symlinkat")
# Steps in which the engine syncs more than once.
SEVERAL = {"creation", "close", "opening", "import"}
SYNCS = {"fsync", "fdatasync", "sync_file_range", "msync", "sync", "syncfs"}
# strace -f -y -s 200: `PID name(args) = result`.
LINE = re.compile(r"^(?:\[pid +)?(\d+)\]? +(\w+)\((.*)\) += (-?\d+)(?:<(.*?)>)?")
FD = re.compile(r"^(\d+)<(.*?)>")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')


class Event:
    """One call that matters: what, on which path, and where to or what for."""

    def __init__(self, what, path, other=None):
        self.what, self.path, self.other = what, path, other

    def __repr__(self):
        return f"{self.what} {self.path}" + (f" -> {self.other}" if self.other else "")


def joined(lines):
    """Puts together what other threads came between."""
    open_calls = {}
    for line in lines:
        pid = re.match(r"^(?:\[pid +)?(\d+)", line)
        if pid and "<unfinished ...>" in line:
            open_calls[pid.group(1)] = line.split("<unfinished ...>")[0]
        elif pid and " resumed>" in line:
            yield open_calls.pop(pid.group(1), "") + line.split(" resumed>", 1)[1]
        else:
            yield line


def events(log):
    found = []
    for line in joined(log.splitlines()):
        match = LINE.match(line)
        if not match or int(match.group(4)) < 0:
            continue
        _, name, args, _, opened = match.groups()
        fd = FD.match(args)
        path = fd.group(2) if fd else None
        strings = STRING.findall(args)
        if name in ("openat", "creat") and ("O_CREAT" in args or name == "creat"):
            found.append(Event("create", opened or strings[0]))
        elif name in ("write", "writev") and fd and fd.group(1) == "1":
            said = strings[0].replace("\\n", "").strip() if strings else ""
            if said.startswith("durable: "):
                found.append(Event("said", said))
        elif name in ("write", "pwrite64", "writev", "pwritev", "pwritev2"):
            found.append(Event("write", path))
        elif name in SYNCS:
            found.append(Event("sync", path or "", name))
        elif name.startswith("rename"):
            found.append(Event("rename", strings[0], strings[1]))
        elif name.startswith("mkdir"):
            found.append(Event("mkdir", strings[0]))
        elif name.startswith("symlink"):
            found.append(Event("symlink", strings[1]))
    return found


def checked(found, folder):
    """What is wrong with these calls, and the number of syncs since the line before for each line."""
    wrong, syncs, since = [], [], 0
    unsynced, folders = set(), {}
    for event in found:
        path = event.path
        if event.what == "said":
            wrong += [f"{path}: {file} was not synced (rule 1)" for file in sorted(unsynced)
                      if not file.endswith(".new")]
            wrong += [f"{path}: {parent} was not synced since {made} (rule 3)"
                      for parent, made in sorted(folders.items())]
            syncs.append((path, since))
            since = 0
        if not path.startswith(folder):
            continue
        parent = str(Path(path).parent)
        if event.what == "write":
            unsynced.add(path)
        elif event.what == "sync":
            since += 1
            unsynced.discard(path)
            folders.pop(path, None)
        elif event.what == "rename":
            if path in unsynced:
                wrong.append(f"{event} before it was synced (rule 2)")
            # What was open under the old name is written to under the new one.
            unsynced.discard(path)
            into = str(Path(event.other).parent)
            if into in folders and folders[into].what == "rename":
                wrong.append(f"{event} before {folders[into]} was synced (rule 4)")
            folders[into] = event
        elif event.what in ("mkdir", "symlink"):
            folders[parent] = event
        elif event.what == "create" and not path.endswith(".new"):
            folders[parent] = event
    groups = [f"{said}: {count} syncs (rule 5)" for said, count in syncs
              if said.startswith("durable: group") and count != 1]
    return wrong + groups, syncs


def main():
    flags = sys.argv[1:]
    if flags[:1] == ["--log"]:
        log = Path(flags[1]).read_text(errors="replace")
    else:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "strace"
            command = ["cargo", "test", "--locked", "--test", "it", "--no-run", "--message-format", "json", *flags]
            built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
            binary = re.findall(r'"executable":"([^"]*/it-[^"]*)"', built)[-1]
            subprocess.run(["strace", "-f", "-y", "-s", "200", "-e", f"trace={CALLS}", "-o", out, binary,
                            "--exact", TEST, "--nocapture", "--test-threads", "1"],
                           cwd=ROOT, check=True, env={"PATH": "/usr/bin:/bin", "TMPDIR": scratch,
                                                      "PHALANX_TEST_SYNCS": "1"}, stdout=subprocess.DEVNULL)
            log = out.read_text(errors="replace")
    found = events(log)
    begin = next((n for n, event in enumerate(found) if " in " in event.path and event.what == "said"), None)
    if begin is None:
        sys.exit("the test said nothing")
    last = max(n for n, event in enumerate(found) if event.what == "said")
    folder, found = found[begin].path.split(" in ")[1], found[begin + 1:last + 1]
    wrong, syncs = checked(found, folder)
    for said, count in syncs:
        print(f"{count:3} syncs before {said!r}")
    if wrong:
        sys.exit("\n".join(wrong))
    each = [n for n, event in enumerate(found) if event.what == "sync" and event.path.startswith(folder)]
    missed, covered, unnoticed = 0, 0, []
    for number in each:
        step = next(event.path.removeprefix("durable: ") for event in found[number:] if event.what == "said")
        if checked(found[:number] + found[number + 1:], folder)[0]:
            missed += 1
        elif step in SEVERAL and "/state.redb" in found[number].path:
            covered += 1
        else:
            unnoticed.append(f"nobody misses {found[number]}, in {step}")
    print(f"{len(each)} syncs: {missed} are missed when left out, {covered} of the engine's are covered by a later one")
    if unnoticed or missed < 15:
        sys.exit("\n".join(unnoticed) or "too few syncs are missed: is the test still what this script expects?")


main()
