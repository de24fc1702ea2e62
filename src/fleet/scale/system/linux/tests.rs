//! Readings below a root of files, and one of this machine.

use super::*;
use std::fs;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A machine of 16 GiB with 4 GiB available, and this process on 8 of its processors with 200 MiB.
struct Machine {
    root: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: TempDir::new().expect("a folder") };
        machine.file("proc/self/status", "VmRSS:\t204800 kB\nCpus_allowed_list:\t0-7\n");
        machine.file("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 4194304 kB\n");
        machine.file("proc/self/cgroup", "0::/\n");
        machine.ticks(0, 0);
        machine
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().expect("it is below the root")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn ticks(&self, busy: u64, idle: u64) {
        self.file("proc/stat", &format!("cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\n"));
    }

    fn source(&self) -> Source {
        Source::new(self.root.path())
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_millis(millis))
}

fn first(machine: &Machine) -> SystemReading {
    machine.source().read_at(at(0), Duration::ZERO).expect("a machine")
}

#[test]
fn a_first_reading_knows_memory_and_limits_and_no_use_of_cpu() {
    let reading = first(&Machine::new());
    assert_eq!((reading.cpu, reading.process_cpus), (None, None));
    assert_eq!((reading.cpus, reading.memory), (8.0, 0.75));
    assert_eq!(reading.process_memory_bytes, 200 << 20);
    assert_eq!(reading.memory_bytes, 16 * GIB);
}

#[test]
fn the_use_of_cpu_is_that_of_the_process_or_of_the_machine() {
    let machine = Machine::new();
    let mut source = machine.source();
    let mut read = |millis, process| {
        let reading = source.read_at(at(millis), Duration::from_millis(process));
        let reading = reading.expect("a machine");
        (reading.process_cpus, reading.cpu)
    };
    assert_eq!(read(0, 0), (None, None));
    machine.ticks(100, 700);
    assert_eq!(read(1000, 4000), (Some(4.0), Some(0.5)), "the process uses half of its eight");
    machine.ticks(700, 900);
    assert_eq!(read(2000, 5000), (Some(1.0), Some(0.75)), "the machine is busier than that");
    machine.ticks(650, 950);
    assert_eq!(read(3000, 5000), (Some(0.0), Some(0.0)), "counts may go back");
    machine.ticks(1650, 950);
    assert_eq!(read(4000, 99_000).1, Some(1.0), "a share is a share");
}

#[test]
fn two_readings_at_once_tell_the_same_use_of_cpu() {
    let machine = Machine::new();
    let mut source = machine.source();
    let mut read = |millis, process| {
        let reading = source.read_at(at(millis), Duration::from_millis(process));
        reading.expect("a machine").process_cpus
    };
    assert_eq!(read(0, 0), None);
    assert_eq!(read(49, 49), None);
    assert_eq!(read(100, 200), Some(2.0), "since the first");
    assert_eq!(read(149, 249), Some(2.0));
    assert_eq!(read(150, 250), Some(1.0), "since the third");
}

#[test]
fn the_tightest_limit_of_all_groups_counts() {
    let machine = Machine::new();
    machine.file("proc/self/cgroup", "0::/hosts/mine\n");
    machine.file("sys/fs/cgroup/hosts/mine/cpu.max", "max 100000\n");
    machine.file("sys/fs/cgroup/hosts/cpu.max", "150000 100000\n");
    machine.file("sys/fs/cgroup/hosts/mine/memory.max", "2147483648\n");
    machine.file("sys/fs/cgroup/hosts/mine/memory.current", "1073741824\n");
    machine.file("sys/fs/cgroup/hosts/memory.max", "4294967296\n");
    machine.file("sys/fs/cgroup/hosts/memory.current", "4294967296\n");
    machine.file("sys/fs/cgroup/hosts/memory.stat", "anon 5\ninactive_file 429496729\n");
    let reading = first(&machine);
    assert_eq!((reading.cpus, reading.memory_bytes), (1.5, 2 * GIB));
    assert!((reading.memory - 0.9).abs() < 1e-6, "{}", reading.memory);
}

#[test]
fn older_control_groups_count_too() {
    let machine = Machine::new();
    machine.file("proc/self/cgroup", "9:memory:/box\n4:cpu,cpuacct:/box\n");
    machine.file("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "200000\n");
    machine.file("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
    machine.file("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1073741824\n");
    machine.file("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1000000000\n");
    machine.file("sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 60129542\n");
    machine.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    machine.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "9223372036854771712\n");
    let reading = first(&machine);
    assert_eq!((reading.cpus, reading.memory_bytes), (2.0, GIB));
    assert!((reading.memory - 0.875_322_6).abs() < 1e-6, "{}", reading.memory);
}

#[test]
fn a_limit_of_more_memory_than_there_is_is_none() {
    let machine = Machine::new();
    machine.file("sys/fs/cgroup/memory.current", &(15 * GIB).to_string());
    machine.file("sys/fs/cgroup/memory.max", &(16 * GIB).to_string());
    assert_eq!(first(&machine).memory, 0.9375);
    machine.file("sys/fs/cgroup/memory.max", &(16 * GIB + 1).to_string());
    assert_eq!(first(&machine).memory, 0.75);
}

#[test]
fn a_group_that_is_not_mounted_falls_back_to_the_one_that_is() {
    let machine = Machine::new();
    machine.file("proc/self/cgroup", "0::/of/the/outside\n");
    machine.file("sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_eq!(first(&machine).cpus, 0.5);
}

#[test]
fn a_process_that_shows_no_groups_has_no_limits() {
    let machine = Machine::new();
    fs::remove_file(machine.root.path().join("proc/self/cgroup")).expect("it was there");
    machine.file("sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_eq!(first(&machine).cpus, 8.0);
}

#[test]
fn what_is_missing_or_broken_is_an_error_and_changes_nothing() {
    let machine = Machine::new();
    let mut source = machine.source();
    source.read_at(at(0), Duration::ZERO).expect("a machine");
    machine.file("proc/meminfo", "MemTotal: many\n");
    let error = source.read_at(at(1000), Duration::from_secs(1)).expect_err("broken");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    fs::remove_file(machine.root.path().join("proc/meminfo")).expect("it was there");
    let error = source.read_at(at(1500), Duration::from_secs(2)).expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("/proc/meminfo"), "{error}");
    machine.file("proc/meminfo", "MemTotal: 4 kB\nMemAvailable: 8 kB\n");
    let reading = source.read_at(at(2000), Duration::from_secs(4)).expect("a machine");
    assert_eq!(reading.process_cpus, Some(2.0), "since the last one that was read");
    assert_eq!(reading.memory, 0.0, "more available than there is");
    machine.file("sys/fs/cgroup/memory.max", "7\n");
    machine.file("sys/fs/cgroup/memory.current/as/a/folder", "");
    let error = source.read_at(at(3000), Duration::ZERO).expect_err("a folder is no file");
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn bytes_that_are_no_text_are_refused_and_not_a_panic() {
    let machine = Machine::new();
    fs::write(machine.root.path().join("proc/stat"), [0xff, 0xfe, 0x00, 0x80]).expect("a file");
    let error = machine.source().read_at(at(0), Duration::ZERO).expect_err("no text");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn this_machine_can_be_read_and_work_shows() {
    let mut source = Source::new("/");
    let before = source.read().expect("this is Linux");
    assert!(before.cpus > 0.0 && before.process_memory_bytes > 0);
    assert!((0.0..=1.0).contains(&before.memory));
    // Work until the process has used some processor time, however slow the machine is.
    let start = process_time();
    let mut sum = 0_u64;
    while process_time() - start < SHORTEST * 2 {
        for number in 0..10_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
    // One thread takes at least as long as it uses the processor; others of the tests only add to it.
    let mut after = source.read().expect("this is Linux");
    while after.process_cpus.is_none() {
        after = source.read().expect("this is Linux");
    }
    assert!(after.process_cpus.is_some_and(|cpus| cpus > 0.0), "{after:?}");
    assert!(after.cpu.is_some_and(|share| share > 0.0 && share <= 1.0), "{after:?}");
}
