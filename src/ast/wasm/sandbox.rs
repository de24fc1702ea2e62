//! One instance of a guest: its store, its memory, and the calls that go in and out.
//!
//! Rules that hold here:
//!
//! 1. The host owns the memory of the guest and sets its maximum; a module that brings memory of its own,
//!    or a large table, is refused.
//! 2. A sandbox in which anything went wrong (a trap, an answer that does not check, a guest that had to
//!    be thrown out) is spent: it answers nothing more, and its owner drops it with its store.
//! 3. Every parse starts from an empty heap, so that a tree depends on its source alone.

use std::sync::Arc;

use wasmer::{
    AsStoreRef, ExternType, Function, FunctionEnv, FunctionEnvMut, Imports, Instance,
    InstantiationError, Memory, MemoryType, Module, RuntimeError, Store, TypedFunction,
    WasmTypeList,
};

use crate::ast::error::{AstError, AstErrorKind};
use crate::ast::grammar::Grammar;
use crate::ast::language::Language;
use crate::ast::limits::Limits;
use crate::ast::record::NodeRecord;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::{Clock, Timestamp};

use super::decode::{self, misbehaved};

/// The version of the interface that `guests/shim.c` implements.
const ABI_VERSION: u32 = 1;
/// The module name of the functions that a guest may import.
const HOST_MODULE: &str = "phalanx";
const PAGE_BYTES: u64 = 65_536;
/// The most elements that the tables of a guest may start with.
const MAX_TABLE_ELEMENTS: u64 = 100_000;
/// How often a guest may go on asking after it was told to stop, before it is thrown out.
const ASKS_AFTER_STOP: u32 = 1_000;

/// A compiled module whose imports, memory and tables were checked.
pub(super) struct CheckedModule {
    module: Module,
    memory_import: (String, String),
    memory_pages_min: u32,
    memory_pages_max: u32,
}

impl CheckedModule {
    /// Compiles; takes some hundred milliseconds a megabyte.
    pub(super) fn compile(engine: &wasmer::Engine, bytes: &[u8]) -> Result<Self, AstError> {
        let module = Module::new(engine, bytes)
            .map_err(|error| misbehaved(format_args!("is not a module: {error}")))?;
        Self::check(module)
    }

    fn check(module: Module) -> Result<Self, AstError> {
        let info = module.info();
        let elements: u64 = info.tables.values().map(|table| u64::from(table.minimum)).sum();
        if elements > MAX_TABLE_ELEMENTS {
            return Err(misbehaved(format_args!("asks for tables of {elements} elements")));
        }
        // The engine allows one memory a module, so that where one is imported it is the only one.
        let memory = module.imports().find_map(|import| match import.ty() {
            ExternType::Memory(ty) => {
                Some((import.module().to_owned(), import.name().to_owned(), *ty))
            }
            _ => None,
        });
        let Some((namespace, name, ty)) = memory else {
            return Err(misbehaved("has to import one memory and define none"));
        };
        if ty.shared {
            return Err(misbehaved("asks for a shared memory"));
        }
        Ok(Self {
            module,
            memory_import: (namespace, name),
            memory_pages_min: ty.minimum.0,
            memory_pages_max: ty.maximum.map_or(u32::MAX, |pages| pages.0),
        })
    }
}

/// Why a parse is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Deadline,
    Closing,
}

/// What the functions that the guest calls look at.
struct Watch {
    clock: Clock,
    started: Timestamp,
    deadline: Timestamp,
    closing: Arc<AtomicBool>,
    stop: Option<Stop>,
    asks_after_stop: u32,
}

impl Watch {
    fn check(&mut self) -> Option<Stop> {
        if self.stop.is_none() {
            // Ordering: Relaxed; the flag carries no data, and a parse that misses it once sees it at
            // its next question.
            if self.closing.load(Ordering::Relaxed) {
                self.stop = Some(Stop::Closing);
            } else if self.clock.now() >= self.deadline {
                self.stop = Some(Stop::Deadline);
            }
        }
        self.stop
    }
}

/// How the host ends a call from within.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Expelled {
    #[error("the guest went on after it was told to stop")]
    Ignored,
    #[error("the guest needed {wanted} bytes more than its memory may have")]
    OutOfMemory { wanted: u32 },
}

fn should_stop(mut env: FunctionEnvMut<'_, Watch>) -> Result<i32, Expelled> {
    let watch = env.data_mut();
    if watch.check().is_none() {
        return Ok(0);
    }
    watch.asks_after_stop += 1;
    if watch.asks_after_stop > ASKS_AFTER_STOP { Err(Expelled::Ignored) } else { Ok(1) }
}

fn out_of_memory(_env: FunctionEnvMut<'_, Watch>, wanted: u32) -> Result<(), Expelled> {
    Err(Expelled::OutOfMemory { wanted })
}

/// One guest, alive.
pub(super) struct Sandbox {
    store: Store,
    memory: Memory,
    memory_limit_bytes: u64,
    watch: FunctionEnv<Watch>,
    calls: Calls,
    spent: bool,
}

struct Calls {
    reset: TypedFunction<(), ()>,
    alloc: TypedFunction<u32, u32>,
    tables: TypedFunction<(), i32>,
    parse: TypedFunction<(u32, u32, u32, u32), i32>,
    output: TypedFunction<(), u32>,
    output_len: TypedFunction<(), u32>,
}

impl Sandbox {
    /// Brings a guest to life; a fraction of a millisecond.
    pub(super) fn new(
        engine: &wasmer::Engine,
        checked: &CheckedModule,
        memory_limit_bytes: u64,
        clock: &Clock,
        closing: &Arc<AtomicBool>,
    ) -> Result<Self, AstError> {
        let mut store = Store::new(engine.clone());
        let pages_max = u32::try_from(memory_limit_bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        // What the module itself allows counts as well, or it would refuse the memory.
        let pages_max = pages_max.min(checked.memory_pages_max);
        let memory_limit_bytes = u64::from(pages_max) * PAGE_BYTES;
        if checked.memory_pages_min > pages_max {
            return Err(AstError::over_limit(
                AstErrorKind::MemoryExceeded,
                "bytes of memory to start the grammar with",
                memory_limit_bytes,
                u64::from(checked.memory_pages_min) * PAGE_BYTES,
            ));
        }
        let ty = MemoryType::new(checked.memory_pages_min, Some(pages_max), false);
        let memory = Memory::new(&mut store, ty).map_err(|error| {
            AstError::new(AstErrorKind::EngineFailed, format!("no memory for a guest: {error}"))
        })?;
        let watch = FunctionEnv::new(
            &mut store,
            Watch {
                clock: clock.clone(),
                started: Timestamp::ZERO,
                deadline: Timestamp::ZERO + std::time::Duration::MAX,
                closing: Arc::clone(closing),
                stop: None,
                asks_after_stop: 0,
            },
        );
        let mut imports = Imports::new();
        let (namespace, name) = &checked.memory_import;
        imports.define(namespace, name, memory.clone());
        let stop = Function::new_typed_with_env(&mut store, &watch, should_stop);
        imports.define(HOST_MODULE, "should_stop", stop);
        let full = Function::new_typed_with_env(&mut store, &watch, out_of_memory);
        imports.define(HOST_MODULE, "out_of_memory", full);
        let instance =
            Instance::new(&mut store, &checked.module, &imports).map_err(|error| match error {
                InstantiationError::Start(error) => trapped("start", &error),
                error => misbehaved(format_args!("does not fit its host: {error}")),
            })?;
        let calls = Calls {
            reset: export(&instance, &store, "guest_reset")?,
            alloc: export(&instance, &store, "guest_alloc")?,
            tables: export(&instance, &store, "guest_tables")?,
            parse: export(&instance, &store, "guest_parse")?,
            output: export(&instance, &store, "guest_output")?,
            output_len: export(&instance, &store, "guest_output_len")?,
        };
        let abi: TypedFunction<(), u32> = export(&instance, &store, "guest_abi")?;
        let mut sandbox = Self { store, memory, memory_limit_bytes, watch, calls, spent: false };
        let version = abi.call(&mut sandbox.store).map_err(|error| trapped("guest_abi", &error))?;
        if version != ABI_VERSION {
            return Err(misbehaved(format_args!(
                "speaks version {version} of the interface, the host {ABI_VERSION}"
            )));
        }
        Ok(sandbox)
    }

    /// Whether something went wrong in it (rule 2 of the file).
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }

    /// The size of its memory now, which never shrinks.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory.view(&self.store).data_size()
    }

    /// Reads the tables of the grammar.
    pub(super) fn grammar(&mut self, language: Language) -> Result<Grammar, AstError> {
        self.guarded(|this| {
            this.arm(std::time::Duration::MAX);
            this.calls
                .reset
                .call(&mut this.store)
                .map_err(|error| this.failed("guest_reset", error))?;
            let status = this
                .calls
                .tables
                .call(&mut this.store)
                .map_err(|e| this.failed("guest_tables", e))?;
            if status != status::OK {
                return Err(misbehaved(format_args!("answered {status} when asked for its names")));
            }
            let (at, len) = this.output()?;
            let (kinds, fields) = decode::tables(&this.memory.view(&this.store), at, len)?;
            Grammar::new(language, kinds, fields)
                .map_err(|error| misbehaved(format_args!("has no usable grammar: {error}")))
        })
    }

    /// Parses; the records are whole, but not yet checked to form a tree.
    pub(super) fn parse(
        &mut self,
        text: &str,
        limits: &Limits,
    ) -> Result<Vec<NodeRecord>, AstError> {
        let mut stopped = None;
        let parsed = self.guarded(|this| {
            this.arm(limits.deadline_limit());
            if let Some(stop) = this.watch.as_mut(&mut this.store).check() {
                stopped = Some(this.stop_error(stop, limits));
                return Ok(Vec::new());
            }
            let max_nodes = limits.nodes_limit();
            match this.run(text, limits)? {
                status::OK => {
                    let (at, len) = this.output()?;
                    decode::records(&this.memory.view(&this.store), at, len, max_nodes)
                }
                status => {
                    stopped = Some(this.status_error(status, limits)?);
                    Ok(Vec::new())
                }
            }
        });
        match (parsed, stopped) {
            (Ok(_), Some(error)) => Err(error),
            (parsed, _) => parsed,
        }
    }

    fn run(&mut self, text: &str, limits: &Limits) -> Result<i32, AstError> {
        self.calls
            .reset
            .call(&mut self.store)
            .map_err(|error| self.failed("guest_reset", error))?;
        let len = u32::try_from(text.len()).map_err(|_| {
            AstError::over_limit(
                AstErrorKind::SourceTooLarge,
                "bytes of source",
                u64::from(u32::MAX),
                text.len() as u64,
            )
        })?;
        let at = self
            .calls
            .alloc
            .call(&mut self.store, len)
            .map_err(|error| self.failed_in("guest_alloc", error, limits))?;
        self.memory.view(&self.store).write(u64::from(at), text.as_bytes()).map_err(|_| {
            misbehaved(format_args!("offered room for {len} bytes at {at}, outside its memory"))
        })?;
        self.calls
            .parse
            .call(&mut self.store, at, len, limits.nodes_limit(), limits.depth_limit())
            .map_err(|error| self.failed_in("guest_parse", error, limits))
    }

    fn output(&mut self) -> Result<(u32, u32), AstError> {
        let at =
            self.calls.output.call(&mut self.store).map_err(|e| self.failed("guest_output", e))?;
        let len = self
            .calls
            .output_len
            .call(&mut self.store)
            .map_err(|error| self.failed("guest_output_len", error))?;
        Ok((at, len))
    }

    /// Starts the time of a call.
    fn arm(&mut self, limit: std::time::Duration) {
        let watch = self.watch.as_mut(&mut self.store);
        watch.started = watch.clock.now();
        watch.deadline = watch.started + limit;
        watch.stop = None;
        watch.asks_after_stop = 0;
    }

    /// Runs calls into the guest; an error leaves the sandbox spent.
    fn guarded<R>(
        &mut self,
        calls: impl FnOnce(&mut Self) -> Result<R, AstError>,
    ) -> Result<R, AstError> {
        if self.spent {
            return Err(AstError::new(AstErrorKind::EngineFailed, "a spent guest was called"));
        }
        // Set before the calls, so that a panic under them leaves it set as well.
        self.spent = true;
        let result = calls(self)?;
        self.spent = false;
        Ok(result)
    }

    /// The error for a guest that ended a parse in good order.
    fn status_error(&self, status: i32, limits: &Limits) -> Result<AstError, AstError> {
        let over = |kind, what, limit: u32| {
            AstError::over_limit(kind, what, u64::from(limit), u64::from(limit) + 1)
        };
        match status {
            status::STOPPED => match self.watch.as_ref(&self.store).stop {
                Some(stop) => Ok(self.stop_error(stop, limits)),
                None => Err(misbehaved("stopped without being told to")),
            },
            status::TOO_MANY_NODES => {
                Ok(over(AstErrorKind::OutputTooLarge, "nodes of the tree", limits.nodes_limit()))
            }
            status::TOO_DEEP => {
                Ok(over(AstErrorKind::TooDeep, "levels of the tree", limits.depth_limit()))
            }
            status => Err(misbehaved(format_args!("answered {status} to a parse"))),
        }
    }

    fn stop_error(&self, stop: Stop, limits: &Limits) -> AstError {
        let watch = self.watch.as_ref(&self.store);
        match stop {
            Stop::Closing => AstError::new(
                AstErrorKind::EngineClosed,
                "the engine was shut down during the parse",
            ),
            Stop::Deadline => AstError::deadline_exceeded(
                limits.deadline_limit(),
                watch.clock.now() - watch.started,
            ),
        }
    }

    fn failed_in(&self, call: &str, error: RuntimeError, limits: &Limits) -> AstError {
        match (error.downcast_ref(), self.watch.as_ref(&self.store).stop) {
            (Some(Expelled::Ignored), Some(stop)) => self.stop_error(stop, limits),
            _ => self.failed(call, error),
        }
    }

    /// The error for a call that did not return.
    fn failed(&self, call: &str, error: RuntimeError) -> AstError {
        match error.downcast_ref() {
            Some(Expelled::OutOfMemory { wanted }) => AstError::over_limit(
                AstErrorKind::MemoryExceeded,
                "bytes of sandbox memory",
                self.memory_limit_bytes,
                self.memory_bytes().saturating_add(u64::from(*wanted)),
            ),
            _ => trapped(call, &error),
        }
    }
}

/// What `guest_parse` and `guest_tables` answer.
mod status {
    pub(super) const OK: i32 = 0;
    pub(super) const STOPPED: i32 = 1;
    pub(super) const TOO_MANY_NODES: i32 = 2;
    pub(super) const TOO_DEEP: i32 = 3;
}

fn trapped(call: &str, error: &RuntimeError) -> AstError {
    AstError::new(
        AstErrorKind::GuestTrapped,
        format!("the guest trapped in {call}: {}", error.message()),
    )
}

fn export<Args: WasmTypeList, Rets: WasmTypeList>(
    instance: &Instance,
    store: &impl AsStoreRef,
    name: &str,
) -> Result<TypedFunction<Args, Rets>, AstError> {
    instance
        .exports
        .get_typed_function(store, name)
        .map_err(|error| misbehaved(format_args!("has no usable {name}: {error}")))
}
