//! Texts as kernels write them, and texts as nobody should.

use super::*;
use proptest::prelude::*;

const STAT: &str = "cpu  4705 150 1120 16250 520 30 45 90 7 3\n\
    cpu0 2300 80 560 8125 260 15 22 45 3 1\n\
    cpu1 2405 70 560 8125 260 15 23 45 4 2\n\
    intr 114930548 113199788 3 0 5 263 0 4\nctxt 1990473\n";

const STATUS: &str = "Name:\thost\nUmask:\t0022\nState:\tR (running)\nVmPeak:\t  900000 kB\n\
    VmHWM:\t  300000 kB\nVmRSS:\t  204800 kB\nThreads:\t9\nCpus_allowed:\tf1f\n\
    Cpus_allowed_list:\t0-4,8-11\n";

const MEMINFO: &str = "MemTotal:       16384000 kB\nMemFree:          812000 kB\n\
    MemAvailable:    4096000 kB\nBuffers:          120000 kB\n";

fn is_refused<T: std::fmt::Debug>(result: Result<T, Error>, text: &str) {
    let error = result.expect_err(text);
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{text:?}");
    assert!(error.to_string().contains("expected"), "{error}");
}

#[test]
fn the_ticks_of_the_machine_are_busy_or_idle() {
    let ticks = machine_ticks(STAT).expect("as a kernel writes it");
    assert_eq!(ticks, Ticks { busy: 22910 - 16770, all: 22910 });
    let old = machine_ticks("cpu 1 2 3 4").expect("the oldest kernels count four");
    assert_eq!(old, Ticks { busy: 6, all: 10 });
    let five = machine_ticks("cpu 1 2 3 4 5").expect("then five");
    assert_eq!(five, Ticks { busy: 6, all: 15 });
}

#[test]
fn ticks_that_are_none_are_refused() {
    let overflow = format!("cpu {} 1 0 0", u64::MAX);
    for text in
        ["", "\n", "cpu", "cpu 1 2 3", "cpu0 1 2 3 4", "cpu 1 2 x 4", "cpu 1 2 -3 4", &overflow]
    {
        is_refused(machine_ticks(text), text);
    }
    assert!(machine_ticks(&format!("cpu {} 0 0 0", u64::MAX)).is_ok());
}

#[test]
fn the_status_tells_memory_and_processors() {
    let found = status(STATUS).expect("as a kernel writes it");
    assert_eq!(found, Status { resident_bytes: 204_800 * 1024, cpus_allowed: 9 });
    for (list, count) in [("0", 1), ("7", 1), ("0-1", 2), ("0,2,4", 3), ("0-0", 1)] {
        assert_eq!(cpu_list(list), Some(count), "{list}");
    }
}

#[test]
fn a_status_that_is_none_is_refused() {
    for (from, to) in [
        ("VmRSS:\t  204800 kB\n", ""),
        ("204800 kB", "204800"),
        ("204800 kB", "many kB"),
        ("204800 kB", "-1 kB"),
        ("204800", "18014398509481984"),
        ("0-4,8-11", ""),
        ("0-4,8-11", "4-0"),
        ("0-4,8-11", "0-4,"),
        ("0-4,8-11", "0-4-8"),
        ("0-4,8-11", "4294967296"),
        ("Cpus_allowed_list:", "Cpus_allowed_list"),
    ] {
        let text = STATUS.replace(from, to);
        assert_ne!(text, STATUS);
        is_refused(status(&text), &text);
    }
    assert!(status(&STATUS.replace("204800", "18014398509481983")).is_ok());
}

#[test]
fn the_memory_of_the_machine_is_in_total_and_available() {
    let found = memory(MEMINFO).expect("as a kernel writes it");
    assert_eq!(found.total_bytes, 16_384_000 * 1024);
    assert_eq!(found.available_bytes, 4_096_000 * 1024);
    for (from, to) in [("MemTotal:       16384000", "MemTotal: 0"), ("MemAvailable", "MemAvail")] {
        let text = MEMINFO.replace(from, to);
        is_refused(memory(&text), &text);
    }
}

#[test]
fn a_process_is_found_in_either_kind_of_control_groups() {
    let path = |path: &str| Some(path.to_owned());
    let new = membership("0::/user.slice/user-1000.slice/session-3.scope\n");
    assert_eq!(new.unified, path("user.slice/user-1000.slice/session-3.scope"));
    let old = membership(
        "11:memory:/docker/abc\n7:cpu,cpuacct:/docker/abc\n4:devices:/x\n1:name=systemd:/y\n0::/\n",
    );
    assert_eq!((old.memory, old.cpu), (path("docker/abc"), path("docker/abc")));
    assert_eq!(old.unified, path(""));
    let colon = membership("0::/a:b/c\n");
    assert_eq!(colon.unified, path("a:b/c"));
}

#[test]
fn a_group_leads_nowhere_outside_its_tree() {
    let root = Some(String::new());
    for text in ["0::/../../etc\n", "0::/..\n", "0::/a/../b\n", "0::/a\0b\n"] {
        assert_eq!(membership(text).unified, root, "{text:?}");
    }
    assert_eq!(membership("0:://etc\n").unified, Some("etc".to_owned()), "never absolute");
    for text in ["", "0:", "0::", "0::relative", "nonsense", "0:cpuset:/x", ":::", "1::/x"] {
        assert_eq!(membership(text), Membership::default(), "{text:?}");
    }
}

#[test]
fn a_group_is_followed_by_those_around_it() {
    assert_eq!(levels("a/b/c"), ["a/b/c", "a/b", "a", ""]);
    assert_eq!(levels("a"), ["a", ""]);
    assert_eq!(levels(""), [""]);
}

#[test]
fn limits_of_processors_are_shares_of_a_period() {
    let max = |text| cpu_max(text).expect("as a kernel writes it");
    assert_eq!(max("max 100000\n"), None);
    assert_eq!(max("150000 100000\n"), Some(1.5));
    let quota = |quota, period| cpu_quota(quota, period).expect("as a kernel writes it");
    assert_eq!(quota("-1\n", "100000\n"), None);
    assert_eq!(quota("50000\n", "100000\n"), Some(0.5));
    for text in ["", "max", "1", "0 1", "1 0", "-1 5", "1 2 3", "a b", "max max max"] {
        is_refused(cpu_max(text), text);
    }
    for (quota, period) in [("", "1"), ("1", ""), ("0", "1"), ("1", "0"), ("-2", "1"), ("x", "1")] {
        is_refused(cpu_quota(quota, period), quota);
    }
}

#[test]
fn limits_of_memory_are_bytes_or_none() {
    assert_eq!(bytes("memory.max", "max\n").expect("no limit"), None);
    assert_eq!(bytes("memory.max", "1048576\n").expect("a limit"), Some(1_048_576));
    for text in ["", "-1", "1 2", "1k", "18446744073709551616"] {
        is_refused(bytes("memory.max", text), text);
    }
    let stat = "anon 12\ninactive_file 34\ntotal_inactive_file 56\n";
    assert_eq!(counted(stat, "inactive_file").expect("it is there"), 34);
    assert_eq!(counted(stat, "total_inactive_file").expect("it is there"), 56);
    assert_eq!(counted(stat, "unheard_of").expect("it counts as none"), 0);
    is_refused(counted("inactive_file\n", "inactive_file"), "no count");
    is_refused(counted("inactive_file many\n", "inactive_file"), "no number");
}

#[test]
fn what_is_refused_is_quoted_and_not_at_length() {
    let error = machine_ticks(&"x".repeat(100_000)).expect_err("it is no line of ticks");
    assert!(error.to_string().len() < 300);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,60}|[a-z0-9:/.,\\- \\n\\t]{0,80}|(cpu|VmRSS:|0::|max)[0-9 /.kB\\-]{0,40}") {
        let _ = machine_ticks(&text);
        let _ = status(&text);
        let _ = memory(&text);
        let _ = cpu_max(&text);
        let _ = cpu_quota(&text, &text);
        let _ = bytes("memory.max", &text);
        let _ = counted(&text, "cpu");
        let found = membership(&text);
        for path in [found.unified, found.cpu, found.memory].into_iter().flatten() {
            let all = levels(&path);
            prop_assert_eq!(all.last(), Some(&""));
            for level in all {
                prop_assert!(!level.starts_with('/'));
                prop_assert!(!level.split('/').any(|part| part == ".."));
            }
        }
    }
}
