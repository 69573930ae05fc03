//! How Linux schedules this process.

/// Makes this process give way to the daemons that it asks (`SCHED_BATCH`, sched(7)): when xenstored has answered the first of
/// many requests, it goes on with the next instead of being interrupted, so that all answers are read at once. On a dom0 with
/// one CPU that halves the time of many requests; elsewhere it changes nothing. A system that refuses stays as it is.
pub fn give_way_to_daemons() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the one structure that it is given, which outlives the call; it changes nothing but the
    // scheduling of the calling thread (thread id 0).
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) };
}

/// Lets this process go before what its own work has woken, for the few milliseconds that it still has to run: a guest that has
/// just started keeps xenstored and xenconsoled busy, and who asked for the guest waits for this process, not for them. For a
/// process that is about to end; processes that it has made do not go along. A system that refuses stays as it is.
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
