//! What files take from elsewhere, as the sandboxed engine parses them.

use phalanx::ast::{Import, ImportKind, Language};

use super::parse;

/// `kind path [type] [= alias] {names} [*]`
fn line(import: &Import) -> String {
    let kind = match import.kind {
        ImportKind::Use => "use",
        ImportKind::Import => "import",
        ImportKind::Require => "require",
        ImportKind::DynamicImport => "dynamic",
        ImportKind::ReExport => "re-export",
        ImportKind::ModDeclaration => "mod",
        ImportKind::ExternCrate => "extern",
        _ => "?",
    };
    let mut line = format!("{kind} {}", import.path);
    if import.type_only {
        line += " type";
    }
    if let Some(alias) = &import.alias {
        line += &format!(" = {alias}");
    }
    if !import.names.is_empty() {
        let names: Vec<String> = import
            .names
            .iter()
            .map(|name| match &name.alias {
                Some(alias) => format!("{} as {alias}", name.name),
                None => name.name.clone(),
            })
            .collect();
        line += &format!(" {{{}}}", names.join(", "));
    }
    if import.glob {
        line += " *";
    }
    line
}

fn assert_imports(language: Language, text: &str, expected: &[&str]) {
    let imports = parse(language, text).imports().expect("the language has imports");
    for import in &imports {
        let said = &text[import.range.clone()];
        assert!(!said.is_empty() && said.trim() == said, "{said:?}");
    }
    let found: Vec<String> = imports.iter().map(line).collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

#[test]
fn use_trees_of_rust_are_expanded_completely() {
    assert_imports(
        Language::RUST,
        r#"
use serde;
use ::core;
use std::fmt;
use std::io::Read as _;
use crate::a::{self, b, c as d, e::*, f::{g, h::i}};
use {first, second::third, fourth as four, fifth::*};
use super::super::*;
use self::local::{inner::{self as me}};
pub use crate::api::Public;
pub(crate) use hidden::{One, Two};
use spaced :: /* why */ out :: name;
mod declared;
pub mod public;
mod inline { use within::It; }
extern crate alloc;
extern crate rand as dice;
fn f() { use local::Name; }
use r#async::r#fn;
"#,
        &[
            "use serde",
            "use ::core",
            "use std {fmt}",
            "use std::io {Read as _}",
            "use crate::a {self, b, c as d}",
            "use crate::a::e *",
            "use crate::a::f {g}",
            "use crate::a::f::h {i}",
            "use first",
            "use second {third}",
            "use fourth = four",
            "use fifth *",
            "use super::super *",
            "use self::local::inner {self as me}",
            "re-export crate::api {Public}",
            "re-export hidden {One, Two}",
            "use spaced::out {name}",
            "mod declared",
            "mod public",
            "use within {It}",
            "extern alloc",
            "extern rand = dice",
            "use local {Name}",
            "use r#async {r#fn}",
        ],
    );
}

#[test]
fn a_use_tree_as_deep_as_you_like_is_expanded_without_recursion() {
    let depth = 2_000;
    let text = format!("use {}z{};", "a::{".repeat(depth), "}".repeat(depth));
    let imports = parse(Language::RUST, &text).imports().expect("the language has imports");
    assert_eq!(imports.len(), 1);
    assert_eq!(imports[0].path.matches('a').count(), depth);
}

#[test]
fn modules_of_javascript_are_found_in_each_way_to_name_them() {
    assert_imports(
        Language::JAVASCRIPT,
        r#"
import './side-effect.js';
import React, { useState as state, useEffect } from 'react';
import * as path from "node:path";
import main, * as all from './main.js';
import { default as Named, 'odd name' as odd } from './odd.js';
import data from './data.json' with { type: 'json' };
export { one, two as second } from './numbers.js';
export * from './everything.js';
export * as grouped from './group.js';
export const local = 1;
export { local as again };
const fs = require('fs');
const { readFile, writeFile: write, stat = 1 } = require('fs/promises');
const join = require('path').join;
const sep = require('path').posix;
require('./polyfill');
require('debug')('app');
require(computed);
require(`./plain`);
require(`./${computed}`);
async function load() {
  const lazy = await import('./lazy.js');
  const { part } = await import('./parts.js');
  import('./later.js').then((m) => m.run());
  return import(name);
}
"#,
        &[
            "import ./side-effect.js",
            "import react {default as React, useState as state, useEffect}",
            "import node:path = path",
            "import ./main.js = all {default as main}",
            "import ./odd.js {default as Named, odd name as odd}",
            "import ./data.json {default as data}",
            "re-export ./numbers.js {one, two as second}",
            "re-export ./everything.js *",
            "re-export ./group.js = grouped",
            "require fs = fs",
            "require fs/promises {readFile, writeFile as write, stat}",
            "require path {join}",
            "require path {posix as sep}",
            "require ./polyfill",
            "require debug",
            "require ./plain",
            "dynamic ./lazy.js = lazy",
            "dynamic ./parts.js {part}",
            "dynamic ./later.js",
        ],
    );
}

#[test]
fn typescript_tells_imports_of_types_apart() {
    assert_imports(
        Language::TYPESCRIPT,
        r#"
import type { Shape } from './shape';
import type Default from './default';
import { type Point, origin } from './geo';
import fs = require('fs');
import Alias = Some.Name.Space;
export type { Shape } from './shape';
export * from './all';
const lazy = (await import('./lazy')) as any;
"#,
        &[
            "import ./shape type {Shape}",
            "import ./default type {default as Default}",
            "import ./geo {Point, origin}",
            "require fs = fs",
            "re-export ./shape type {Shape}",
            "re-export ./all *",
            "dynamic ./lazy",
        ],
    );
    assert_imports(
        Language::TSX,
        "import { Card } from './card';\nconst x = <Card/>;\n",
        &["import ./card {Card}"],
    );
}

#[test]
fn modules_of_python_are_found_with_their_dots_and_aliases() {
    assert_imports(
        Language::PYTHON,
        r#"
from __future__ import annotations
import os, sys as system
import a.b.c as d
import xml.etree
from . import sibling
from .mod import name, other as alias
from ..pkg.sub import (
    first,  # a comment
    second as two,
)
from everything import *
from a . b import c
def f():
    import inside
try:
    import fast
except ImportError:
    fast = None
importlib.import_module('dynamic')
"#,
        &[
            "import __future__ {annotations}",
            "import os",
            "import sys = system",
            "import a.b.c = d",
            "import xml.etree",
            "import . {sibling}",
            "import .mod {name, other as alias}",
            "import ..pkg.sub {first, second as two}",
            "import everything *",
            "import a.b {c}",
            "import inside",
            "import fast",
        ],
    );
}

#[test]
fn the_bindings_of_an_import_are_the_names_it_can_be_spoken_of_by() {
    let bindings = |language, text: &str| -> Vec<String> {
        let imports = parse(language, text).imports().expect("the language has imports");
        imports.iter().flat_map(Import::bindings).map(str::to_owned).collect()
    };
    assert_eq!(bindings(Language::RUST, "use a::{b as c, d};"), ["c", "d"]);
    let text = "import x, * as y from 'm'; import {p as q} from 'n'; import 'o';";
    assert_eq!(bindings(Language::JAVASCRIPT, text), ["y", "x", "q"]);
}

#[test]
fn imports_that_break_off_take_nothing_that_is_not_there() {
    for (language, text) in [
        (Language::RUST, "use a::{b, ;\nmod ;\nuse ;\nextern crate ;"),
        (Language::JAVASCRIPT, "import {a, from ;\nexport * from\nrequire(\nimport x from"),
        (Language::PYTHON, "from import x\nimport\nfrom . import\nimport a as\nfrom x import (y"),
    ] {
        let imports = parse(language, text).imports().expect("the language has imports");
        for import in imports {
            assert!(import.names.iter().all(|name| !name.name.is_empty()), "{import:?}");
        }
    }
}
