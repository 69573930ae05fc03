//! Linux's scheduling of this process.

/// Gives priority to the daemons that this process asks (`SCHED_BATCH`, sched(7)).
///
/// After xenstored has answered the first of many requests, it continues with the next one without an interruption.
/// So this process reads all answers at once. On a dom0 with one CPU this halves the time of many requests. Elsewhere
/// it has no effect. An error is ignored.
pub fn give_way_to_daemons() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the one structure that it is given, which outlives the call; it changes nothing but the
    // scheduling of the calling thread (thread id 0).
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
}

/// Gives this process priority over the processes that it has woken, for its last few milliseconds.
///
/// A new guest keeps xenstored and xenconsoled busy, and the user waits for this process. Use it only before the end
/// of a process. Child processes do not inherit it. An error is ignored.
pub fn take_precedence_to_end() {
    const FIRST_OF_ALL: libc::c_int = -20;
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the first call reads the one structure that it is given, which outlives the call, and the second takes numbers;
    // they change nothing but the scheduling of the calling thread (0).
    let _ = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const priority);
        libc::setpriority(libc::PRIO_PROCESS, 0, FIRST_OF_ALL)
    };
}

#[cfg(test)]
mod tests {
    // Each test has a thread of its own, and scheduling is a thread's.

    fn policy() -> libc::c_int {
        // SAFETY: the call takes a number and touches no memory of ours.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn goes_on_as_others_to_end() {
        super::give_way_to_daemons();
        super::take_precedence_to_end();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }

    #[test]
    fn is_batch_afterwards() {
        super::give_way_to_daemons();
        assert_eq!(policy(), libc::SCHED_BATCH);
    }
}
