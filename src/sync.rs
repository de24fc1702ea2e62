//! The only part that names atomics, locks and threads.
//!
//! Everything else imports them from here, so that the same source runs on the real primitives, under
//! loom (`--cfg phalanx_loom`), under shuttle (`--cfg phalanx_shuttle`) and under ThreadSanitizer
//! (`--cfg phalanx_tsan`). The cfgs carry the crate's name on purpose: a bare `--cfg loom` would switch
//! dependencies over as well.
//!
//! Rules that hold here:
//!
//! 1. A lock taken here does not poison: a panic while it is held releases it.
//! 2. ThreadSanitizer models no fences: to it, only accesses order anything. So nothing relies on
//!    a fence to order plain memory without an access that does the same in a build for it; fences keep two
//!    words apart (whoever stores, fences and looks), and loom is what checks them.
//! 3. [`site`] names an ordering, [`fence_site`] a fence and [`left_out`] a step, so that the twin of a model
//!    can do without just that one, and be seen to fail.

#![cfg_attr(
    any(phalanx_loom, phalanx_shuttle),
    allow(dead_code, unused_imports, reason = "a model uses a part")
)]

mod asymmetric;
mod biased;
mod brief;
mod home;
mod parker;
#[cfg(all(target_arch = "x86_64", not(any(phalanx_loom, phalanx_shuttle))))]
mod prefetch;
mod shared;
mod watch;
#[cfg(any(phalanx_loom, phalanx_shuttle, phalanx_tsan))]
mod weakening;

/// The models do not look inside: what is set once is set under a lock of theirs.
pub(crate) use std::sync::OnceLock;

#[cfg_attr(
    all(not(feature = "wasm"), target_os = "linux", not(any(phalanx_loom, phalanx_shuttle))),
    expect(unused_imports, reason = "the sandbox alone waits on it")
)]
pub(crate) use imp::Condvar;
pub(crate) use imp::{Mutex, MutexGuard, RwLock, UnsafeCell, atomic, fence, hint, thread};

#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))]
pub(crate) use asymmetric::refusing_barriers;
pub(crate) use asymmetric::{Asymmetric, heavy_fence, light_fence};
pub(crate) use biased::{Biased, BiasedGuard, biased};
pub(crate) use brief::{Brief, BriefGuard};
#[cfg(all(feature = "test-util", not(any(phalanx_loom, phalanx_shuttle))))]
pub(crate) use home::set_first_place;
pub(crate) use home::{cores, first_place, home, me, unique};
pub(crate) use parker::Parker;
pub(crate) use prefetch::{prefetch_read, prefetch_write};
pub(crate) use shared::Shared;
pub(crate) use watch::watch;

/// There are no such hints here.
#[cfg(not(all(target_arch = "x86_64", not(any(phalanx_loom, phalanx_shuttle)))))]
mod prefetch {
    pub(crate) fn prefetch_read<T>(_address: *const T) {}
    pub(crate) fn prefetch_write<T>(_address: *const T) {}
}

#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
mod imp {
    pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic;
    #[cfg(not(target_os = "linux"))]
    use std::time::Duration;
    pub(crate) use std::{hint, thread};

    /// A condition variable whose waits keep the guard in place.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar);

    #[cfg_attr(
        all(not(feature = "wasm"), target_os = "linux"),
        expect(dead_code, reason = "the sandbox alone waits on it")
    )]
    impl Condvar {
        #[cfg(not(target_os = "linux"))]
        pub(crate) const fn new() -> Self {
            Self(parking_lot::Condvar::new())
        }
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            self.0.wait(guard);
        }
        /// Returns whether the time ran out.
        #[cfg(not(target_os = "linux"))]
        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> bool {
            self.0.wait_for(guard, timeout).timed_out()
        }
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// A cell whose accesses loom can see.
    #[derive(Debug, Default)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        #[inline(always)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    pub(crate) use std::sync::atomic::fence;
}

#[cfg(any(phalanx_loom, phalanx_shuttle))]
mod imp {
    #[cfg(phalanx_loom)]
    use loom as model;
    #[cfg(phalanx_shuttle)]
    use shuttle as model;
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    pub(crate) use model::sync::atomic;
    pub(crate) use model::sync::atomic::fence;
    pub(crate) use model::{hint, thread};

    /// The lock of the model behind the interface of the real one.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(model::sync::Mutex<T>);

    #[derive(Debug)]
    pub(crate) struct MutexGuard<'a, T>(Option<model::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(model::sync::Mutex::new(value))
        }
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)))
        }
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
        }
        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect("the guard is only empty inside a wait")
        }
    }
    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("the guard is only empty inside a wait")
        }
    }

    /// The read-write lock of the model behind the interface of the real one.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(model::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(model::sync::RwLock::new(value))
        }
        pub(crate) fn read(&self) -> model::sync::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
        pub(crate) fn write(&self) -> model::sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(model::sync::Condvar);

    impl Condvar {
        pub(crate) fn new() -> Self {
            Self(model::sync::Condvar::new())
        }
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.0.take().expect("the guard is only empty inside a wait");
            guard.0 = Some(self.0.wait(held).unwrap_or_else(std::sync::PoisonError::into_inner));
        }
        /// A model has no time: the wait ends by a notification alone.
        pub(crate) fn wait_for<T>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            _timeout: Duration,
        ) -> bool {
            self.wait(guard);
            false
        }
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }
        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    #[cfg(phalanx_loom)]
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);
    #[cfg(phalanx_shuttle)]
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[cfg(phalanx_loom)]
        pub(crate) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }
        #[cfg(phalanx_shuttle)]
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }
        #[cfg(phalanx_loom)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            self.0.with(f)
        }
        #[cfg(phalanx_loom)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(f)
        }
        #[cfg(phalanx_shuttle)]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }
        #[cfg(phalanx_shuttle)]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

/// An ordering with a name, which a loom test can weaken to `Relaxed` (see [`weakened`]).
#[cfg(not(any(phalanx_loom, phalanx_tsan)))]
#[inline(always)]
pub(crate) const fn site(_name: &'static str, order: atomic::Ordering) -> atomic::Ordering {
    order
}

/// A fence with a name, which a loom test can leave out (see [`weakened`]).
#[cfg(not(phalanx_loom))]
#[inline(always)]
pub(crate) fn fence_site(_name: &'static str, order: atomic::Ordering) {
    fence(order);
}

/// Whether the step of this name is left out, which only a model can have happen (see [`weakened`]).
#[cfg(not(any(phalanx_loom, phalanx_shuttle)))]
#[inline(always)]
pub(crate) const fn left_out(_name: &'static str) -> bool {
    false
}

#[cfg(any(phalanx_loom, phalanx_shuttle))]
pub(crate) use weakening::{explore, left_out, weakened};
#[cfg(phalanx_loom)]
pub(crate) use weakening::{fence_site, site};

#[cfg(phalanx_tsan)]
pub(crate) use weakening::site;

#[cfg(phalanx_shuttle)]
pub(crate) use shuttle::future::block_on;
