//! The syntax engine as a caller sees it: wall time of a parse, the hand-over to a worker included, and of
//! the analyses of a tree. Without the feature `wasm` there is no engine to measure.

#[cfg(feature = "wasm")]
mod wasm {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use criterion::{BenchmarkId, Criterion, Throughput};
    use phalanx::ast::wasm::WasmEngine;
    use phalanx::ast::{AstEngine, Language, Limits, Source};

    const SIZES: [(&str, usize); 4] =
        [("1k", 1_000), ("10k", 10_000), ("100k", 100_000), ("1m", 1_000_000)];

    const SAMPLES: [(Language, &str); 4] = [
        (
            Language::JAVASCRIPT,
            r#"import { readFile } from "node:fs/promises";

export class Cache extends Base {
  #entries = new Map();
  async load(key, { retries = 3, signal } = {}) {
    for (let i = 0; i < retries; i++) {
      try {
        const text = await readFile(`${this.root}/${key}.json`, "utf8");
        return JSON.parse(text)?.items.filter((item) => item.size > 10 && !item.hidden);
      } catch (error) {
        if (signal?.aborted || error.code !== "ENOENT") throw error;
      }
    }
    return [];
  }
}

"#,
        ),
        (
            Language::TYPESCRIPT,
            r#"import type { Item } from "./item";

export interface Options<T extends object> { retries?: number; map: (item: Item) => T | undefined }

export class Cache<T extends object> implements Iterable<T> {
  private readonly entries = new Map<string, T[]>();
  async load(key: string, { retries = 3, map }: Options<T>): Promise<readonly T[]> {
    for (let i = 0; i < retries; i++) {
      const found = this.entries.get(key)?.filter((item): item is T => item !== undefined);
      if (found && found.length > i * 2) return found as readonly T[];
      this.entries.set(key, [map({ key, size: i })!]);
    }
    return [];
  }
}

"#,
        ),
        (
            Language::PYTHON,
            r#"from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cache(Base):
    """Keeps what was loaded."""

    root: str
    entries: dict[str, list[int]] = field(default_factory=dict)

    async def load(self, key: str, *, retries: int = 3, **options) -> list[int]:
        for attempt in range(retries):
            try:
                async with open(f"{self.root}/{key}.json") as file:
                    return [item["size"] for item in await file.read() if item["size"] > 10]
            except (OSError, KeyError) as error:
                if attempt == retries - 1 or options.get("strict"):
                    raise LoadError(key) from error
        return []


"#,
        ),
        (
            Language::RUST,
            r#"use std::collections::HashMap;

/// Keeps what was loaded.
#[derive(Debug, Clone)]
pub struct Cache<'a, T: Clone> {
    root: &'a str,
    entries: HashMap<String, Vec<T>>,
}

impl<'a, T: Clone + PartialOrd> Cache<'a, T> {
    pub fn load(&mut self, key: &str, retries: usize) -> Result<Vec<T>, Error> {
        for attempt in 0..retries {
            match self.entries.get(key) {
                Some(items) if items.len() > attempt * 2 => {
                    return Ok(items.iter().filter(|item| **item > self.floor).cloned().collect());
                }
                _ => self.refill(&format!("{}/{key}.json", self.root))?,
            }
        }
        Ok(Vec::new())
    }
}

"#,
        ),
    ];

    fn sized(sample: &str, bytes: usize) -> String {
        sample.repeat(bytes.div_ceil(sample.len()))
    }

    fn engine() -> WasmEngine {
        WasmEngine::builder().workers(NonZeroUsize::MIN).build().expect("the engine starts")
    }

    pub(crate) fn parse(criterion: &mut Criterion) {
        let engine = engine();
        let limits = Limits::default();
        for (language, sample) in SAMPLES {
            let mut group = criterion.benchmark_group(format!("ast/parse/{language}"));
            group.sample_size(20).measurement_time(Duration::from_secs(2));
            for (name, bytes) in SIZES {
                let text = sized(sample, bytes);
                let source = Source::new(language, &text);
                let tree = engine.parse(&source, &limits).expect("the sample parses");
                assert!(!tree.has_error(), "{language}");
                group.throughput(Throughput::Bytes(text.len() as u64));
                group.bench_with_input(BenchmarkId::from_parameter(name), &source, |b, source| {
                    b.iter(|| engine.parse(source, &limits).expect("it parses").node_count());
                });
            }
            group.finish();
        }
    }

    pub(crate) fn analyses(criterion: &mut Criterion) {
        let engine = engine();
        let mut group = criterion.benchmark_group("ast/analyse/100k");
        group.sample_size(20).measurement_time(Duration::from_secs(2));
        for (language, sample) in SAMPLES {
            let text = sized(sample, 100_000);
            let source = Source::new(language, &text);
            let tree = engine.parse(&source, &Limits::default()).expect("the sample parses");
            group.bench_function(BenchmarkId::new("outline", language), |b| {
                b.iter(|| tree.outline().expect("the language has an outline").len());
            });
            group.bench_function(BenchmarkId::new("content-hash", language), |b| {
                b.iter(|| source.content_hash());
            });
        }
        group.finish();
    }
}

#[cfg(feature = "wasm")]
criterion::criterion_group!(benches, wasm::parse, wasm::analyses);
#[cfg(feature = "wasm")]
criterion::criterion_main!(benches);

#[cfg(not(feature = "wasm"))]
fn main() {}
