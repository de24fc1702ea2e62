#!/usr/bin/env python3
"""Checks the dependency tree against deny.toml without the network.

Covers what cargo-deny's `licenses`, `bans` and `sources` checks cover of that file: allowed licences
with exceptions by crate, duplicate versions with listed exceptions, wildcard requirements, and
registries. An exception that nothing needs fails as well. Advisories need the network and are not
checked here. `--self-test` proves that each rule can fail.
"""

import json
import re
import subprocess
import sys
import tomllib
import unittest
from collections import defaultdict

# The crate itself, whose tree may hold no version twice, and what its guests are built from.
MANIFESTS = ["Cargo.toml", "src/ast/wasm/guests/sources/Cargo.toml"]

TOKEN = re.compile(r"\s*(\(|\)|/|[A-Za-z0-9.+:-]+)")


def tokens(expression):
    position, out = 0, []
    while position < len(expression.rstrip()):
        match = TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"cannot read the licence expression {expression!r}")
        out.append("OR" if match[1] == "/" else match[1])
        position = match.end()
    return out


def satisfied(expression, allowed):
    """Whether `allowed` satisfies an SPDX expression (`/` is the old spelling of OR)."""
    rest = tokens(expression)

    def either():
        value = both()
        while rest and rest[0] == "OR":
            rest.pop(0)
            right = both()
            value = value or right
        return value

    def both():
        value = atom()
        while rest and rest[0] == "AND":
            rest.pop(0)
            right = atom()
            value = value and right
        return value

    def atom():
        if not rest:
            raise ValueError(f"the licence expression {expression!r} breaks off")
        name = rest.pop(0)
        if name == "(":
            value = either()
            if not rest or rest.pop(0) != ")":
                raise ValueError(f"unbalanced brackets in {expression!r}")
            return value
        if rest and rest[0] == "WITH":
            rest.pop(0)
            name = f"{name} WITH {rest.pop(0)}"
        # `X+` is X or any later version, so X satisfies it.
        return name in allowed or name.removesuffix("+") in allowed

    value = either()
    if rest:
        raise ValueError(f"cannot read {rest!r} in the licence expression {expression!r}")
    return value


def check_licences(policy, packages):
    policy = policy["licenses"]
    allowed = set(policy["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in policy.get("exceptions", [])}
    problems, used = [], set()
    for package in packages:
        label = f"{package['name']} {package['version']}"
        licence = package.get("license")
        if not licence:
            problems.append(f"{label} names no licence")
        elif satisfied(licence, allowed):
            continue
        elif satisfied(licence, allowed | exceptions.get(package["name"], set())):
            used.add(package["name"])
        else:
            problems.append(f"{label} is under {licence!r}, which deny.toml does not allow")
    for name in sorted(exceptions.keys() - used):
        problems.append(f"the licence exception for {name} is not needed any more")
    return problems


def check_duplicates(policy, packages):
    skips = set()
    for entry in policy["bans"].get("skip", []):
        if not entry.get("reason"):
            return [f"the exception for {entry['crate']} gives no reason"]
        name, _, version = entry["crate"].partition("@")
        skips.add((name, version))
    versions = defaultdict(set)
    for package in packages:
        versions[package["name"]].add(package["version"])
    problems = []
    for name, found in sorted(versions.items()):
        left = sorted(version for version in found if (name, version) not in skips)
        if len(left) > 1:
            problems.append(f"{name} is in the tree as {', '.join(left)}; deny.toml lists no exception")
    for name, version in sorted(skips):
        if len(versions[name]) < 2 or version not in versions[name]:
            problems.append(f"the exception for {name}@{version} is not needed any more")
    return problems


def check_wildcards(_policy, root):
    return [
        f"the requirement on {dependency['name']} is a wildcard"
        for dependency in root["dependencies"]
        if dependency["req"] == "*"
    ]


def check_sources(policy, packages):
    allowed = {f"registry+{url}" for url in policy["sources"]["allow-registry"]}
    return [
        f"{package['name']} {package['version']} comes from {package['source'] or 'a path'}"
        for package in packages
        if package["source"] not in allowed
    ]


def check(policy, trees):
    """Checks trees of `cargo metadata`: versions may differ between trees, not within one."""
    union = {package["id"]: package for tree in trees for package in tree["packages"]}
    roots = {tree["resolve"]["root"] for tree in trees}
    foreign = [package for id, package in union.items() if id not in roots]
    problems = check_licences(policy, foreign) + check_sources(policy, foreign)
    for root in sorted(roots):
        problems += check_wildcards(policy, union[root])
    return problems + check_duplicates(policy, trees[0]["packages"])


class SelfTest(unittest.TestCase):
    POLICY = {
        "licenses": {"allow": ["MIT", "A WITH B"], "exceptions": [{"crate": "copyleft", "allow": ["MPL-2.0"]}]},
        "bans": {"skip": [{"crate": "twice@1.0.0", "reason": "held back by a test"}]},
        "sources": {"allow-registry": ["https://index"]},
    }

    @staticmethod
    def package(name, version="1.0.0", licence="MIT", source="registry+https://index"):
        return {"id": f"{name}@{version}", "name": name, "version": version, "license": licence,
                "source": source, "dependencies": []}

    def good(self):
        return [self.package("copyleft", licence="MPL-2.0+"), self.package("twice"),
                self.package("twice", "2.0.0")]

    def problems(self, *extra, without=None):
        root = self.package("root", source=None)
        packages = [p for p in self.good() if p["id"] != without] + [root, *extra]
        return check(self.POLICY, [{"packages": packages, "resolve": {"root": "root@1.0.0"}}])

    def test_a_good_tree_has_no_problem(self):
        self.assertEqual(self.problems(), [])

    def test_each_bad_tree_has_its_problem(self):
        for expected, problems in [
            ("which deny.toml does not allow", self.problems(self.package("bad", licence="GPL-3.0"))),
            ("which deny.toml does not allow", self.problems(self.package("bad", licence="MIT AND GPL-3.0"))),
            ("which deny.toml does not allow", self.problems(self.package("other", licence="MPL-2.0"))),
            ("names no licence", self.problems(self.package("bad", licence=None))),
            ("licence exception for copyleft is not needed", self.problems(without="copyleft@1.0.0")),
            ("bad is in the tree as 1.0.0, 2.0.0", self.problems(self.package("bad"), self.package("bad", "2.0.0"))),
            ("twice is in the tree as 2.0.0, 3.0.0", self.problems(self.package("twice", "3.0.0"))),
            ("exception for twice@1.0.0 is not needed", self.problems(without="twice@2.0.0")),
            ("comes from git+https://x", self.problems(self.package("bad", source="git+https://x"))),
            ("comes from a path", self.problems(self.package("bad", source=None))),
        ]:
            with self.subTest(expected):
                self.assertTrue(any(expected in problem for problem in problems), problems)

    def test_a_wildcard_is_a_problem(self):
        root = self.package("root", source=None) | {"dependencies": [{"name": "any", "req": "*"}]}
        self.assertEqual(check_wildcards(self.POLICY, root), ["the requirement on any is a wildcard"])

    def test_expressions_are_read_as_spdx_means_them(self):
        allowed = {"MIT", "A WITH B"}
        for expression, expected in [
            ("MIT", True), ("X OR MIT", True), ("X/MIT", True), ("X AND MIT", False), ("A", False),
            ("A WITH B", True), ("X AND Y OR MIT", True), ("X AND (Y OR MIT)", False), ("MIT+", True),
        ]:
            self.assertEqual(satisfied(expression, allowed), expected, expression)
        for expression in ["", "(MIT", "MIT MIT", "MIT OR"]:
            self.assertRaises(ValueError, satisfied, expression, allowed)


def main():
    with open("deny.toml", "rb") as file:
        policy = tomllib.load(file)
    trees = [
        json.loads(subprocess.check_output(
            ["cargo", "metadata", "--format-version", "1", "--all-features", "--locked",
             "--manifest-path", manifest]))
        for manifest in MANIFESTS
    ]
    problems = check(policy, trees)
    for problem in problems:
        print(f"error: {problem}")
    for manifest, tree in zip(MANIFESTS, trees):
        print(f"{manifest}: {len(tree['packages'])} packages checked")
    for entry in policy["advisories"]["ignore"]:
        print(f"known advisory: {entry['id']}: {entry['reason']}")
    print("advisories were not checked: the database needs the network (cargo deny check advisories)")
    return 1 if problems else 0


if __name__ == "__main__":
    if "--self-test" in sys.argv:
        unittest.main(argv=[sys.argv[0]])
    sys.exit(main())
