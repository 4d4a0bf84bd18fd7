use proptest::prelude::*;

use super::*;

const fn visit(partition: u64, context: u64, proven: bool, cost: usize) -> Visit {
    Visit { partition, context, ahead: false, proven, requests: cost, bytes: 0 }
}

/// Adds a load that displaces none.
fn push(queue: &mut FairQueue<u64>, visit: Visit) -> u64 {
    let (number, displaced) = queue.push(visit, 0).unwrap();
    assert_eq!(displaced, None);
    number
}

/// One context floods the gate, and then many contexts of one partition do: a later load of
/// another one is next as soon as a running load ends.
#[test]
fn a_load_after_a_flood_is_next() {
    for contexts in [1, 50] {
        let mut queue = FairQueue::new(4, 1_000);
        (0..500).for_each(|number| _ = push(&mut queue, visit(1, number % contexts, true, 1)));
        let first: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(first.len(), 4);
        // After a few turns, so that the order of arrival does not matter.
        let mut running = vec![];
        for (_, number, done) in &first {
            queue.remove(done, *number);
            running.extend(queue.pop());
        }
        let other = visit(2, 0, true, 1);
        push(&mut queue, other);
        let (_, number, done) = &running[0];
        queue.remove(done, *number);
        assert_eq!(queue.pop().map(|(.., next)| next), Some(other));
    }
}

#[test]
fn expensive_loads_run_less_often() {
    let mut queue = FairQueue::new(1, 1_000);
    for _ in 0..170 {
        push(&mut queue, visit(1, 1, true, 16));
        push(&mut queue, visit(1, 2, true, 1));
    }
    let mut turns = [0, 0];
    for _ in 0..170 {
        let (_, number, next) = queue.pop().unwrap();
        turns[usize::from(next.context == 2)] += 1;
        queue.remove(&next, number);
    }
    assert_eq!(turns, [10, 160]);
}

#[test]
fn unproven_loads_leave_room_for_others() {
    let mut queue = FairQueue::new(16, 1_000);
    let passed = |queue: &mut FairQueue<u64>, partition, context, proven| {
        (0..20).for_each(|_| _ = push(queue, visit(partition, context, proven, 1)));
        std::iter::from_fn(|| queue.pop()).count()
    };
    assert_eq!(passed(&mut queue, 1, 1, false), 12, "of one context");
    assert_eq!(passed(&mut queue, 1, 2, false), 2, "of one partition");
    assert_eq!(passed(&mut queue, 2, 1, false), 1, "in all");
    assert_eq!(passed(&mut queue, 1, 1, true), 1, "proven");
}

#[test]
fn a_narrow_gate_lets_a_load_pass() {
    for width in 1..40 {
        let mut queue = FairQueue::new(width, 1_000);
        push(&mut queue, visit(1, 1, false, 1));
        assert!(queue.pop().is_some());
    }
}

/// One context cannot take all the waiting room.
#[test]
fn a_full_queue_admits_contexts_with_few_waiters() {
    let mut queue = FairQueue::new(1, 10);
    for number in 0..1_000 {
        let _ = queue.push(visit(1, number % 16, true, 1), number);
    }
    assert_eq!(queue.waiting, 160);
    assert!(queue.push(visit(1, 3, true, 1), 0).is_err());
    for partition in 2..10 {
        let admission = queue.push(visit(partition, 0, true, 1), 0);
        assert!(matches!(admission, Ok((_, Some(_)))), "{admission:?}");
    }
    assert_eq!(queue.waiting, 160);
}

/// Waiting loads hold the headers of their messages.
#[test]
fn large_waiting_loads_count_as_several() {
    let mut queue = FairQueue::new(1, 10);
    for _ in 0..2 {
        push(&mut queue, Visit { bytes: 5 * BYTES_AS_ONE, ..visit(1, 1, true, 1) });
    }
    assert!(queue.push(visit(1, 1, true, 1), 0).is_err());
    assert!(queue.pop().is_some());
    push(&mut queue, visit(1, 1, true, 1));
    assert_eq!(queue.waiting, 7);
}

/// One partition cannot take all the waiting room either, with many contexts that each have one
/// load.
#[test]
fn a_queue_full_of_many_contexts_admits_other_partitions() {
    let mut queue = FairQueue::new(1, 10);
    for number in 0..160 {
        push(&mut queue, visit(1, number, true, 1));
    }
    assert!(queue.push(visit(1, 999, true, 1), 0).is_err());
    for context in 0..79 {
        let admission = queue.push(visit(2, context, true, 1), 0);
        assert!(matches!(admission, Ok((_, Some(_)))), "{context}: {admission:?}");
    }
    // Neither partition displaces the other any further.
    for partition in [1, 2] {
        let _ = queue.push(visit(partition, 1_000, true, 1), 0);
        let admission = queue.push(visit(partition, 2_000, true, 1), 0);
        assert!(admission.is_err(), "{partition}: {admission:?}");
    }
    assert_eq!(queue.waiting, 160);
}

#[derive(Debug, Clone)]
enum Step {
    Push(Visit),
    Pop,
    Leave(usize),
    GiveUp(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0..3u64, 0..4u64, any::<bool>(), any::<bool>(), 1..17_usize).prop_map(
        |(partition, context, ahead, proven, requests)| {
            Step::Push(Visit { partition, context, ahead, proven, requests, bytes: 0 })
        },
    );
    let step = prop_oneof![
        4 => push,
        3 => Just(Step::Pop),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::GiveUp),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// For any sequence of loads that come, end and are cancelled: no limit is exceeded, loads
    /// ahead run last, cancelled and displaced loads never run, no room stays empty while a load
    /// may use it, all waiting loads run eventually, and no state is left at the end.
    #[test]
    fn limits_hold_and_all_loads_run_in_the_end(steps in steps(), width in 1..20usize) {
        let mut queue = FairQueue::new(width, 8);
        let max_unproven = queue.max_unproven;
        let mut waiting: Vec<(u64, u64, Visit)> = vec![];
        let mut running: Vec<(u64, Visit)> = vec![];
        let mut names = 0;
        let end = std::iter::repeat_n([Step::Pop, Step::Leave(0)], 1_000);
        for step in steps.into_iter().chain(end.flatten()) {
            match step {
                Step::Push(visit) => {
                    names += 1;
                    let same = |it: &&(u64, u64, Visit)| {
                        (it.2.partition, it.2.context) == (visit.partition, visit.context)
                    };
                    let own = waiting.iter().filter(same).count();
                    match queue.push(visit, names) {
                        Ok((number, displaced)) => {
                            if let Some(gone) = displaced {
                                let at = waiting.iter().position(|(_, name, _)| *name == gone);
                                let (number, _, visit) = waiting.remove(at.unwrap());
                                // Its caller finds out later, and then leaves.
                                prop_assert_eq!(queue.remove(&visit, number), None);
                            }
                            waiting.push((number, names, visit));
                        }
                        Err(_) => prop_assert!(own >= 8 || waiting.len() >= 128),
                    }
                    prop_assert!(own < 8 || waiting.iter().filter(same).count() == own);
                }
                Step::Pop => {
                    let may_pass = |visit: &Visit| {
                        let unproven = |same: &dyn Fn(&Visit) -> bool| {
                            running.iter().filter(|(_, it)| !it.proven && same(it)).count()
                        };
                        let [all, of_partition, of_context] = max_unproven;
                        running.len() < width && (visit.proven || unproven(&|_| true) < all
                            && unproven(&|it| it.partition == visit.partition) < of_partition
                            && unproven(&|it| (it.partition, it.context)
                                == (visit.partition, visit.context)) < of_context)
                    };
                    let may: Vec<_> =
                        waiting.iter().map(|it| it.2).filter(may_pass).collect();
                    let next = queue.pop();
                    prop_assert_eq!(next.is_some(), !may.is_empty());
                    if let Some((_, number, visit)) = next {
                        prop_assert!(may_pass(&visit));
                        prop_assert!(!visit.ahead || may.iter().all(|it| it.ahead));
                        let before = waiting.len();
                        waiting.retain(|(it, ..)| *it != number);
                        prop_assert_eq!(waiting.len(), before - 1);
                        running.push((number, visit));
                    }
                }
                Step::Leave(index) => {
                    if !running.is_empty() {
                        let (number, visit) = running.swap_remove(index % running.len());
                        prop_assert_eq!(queue.remove(&visit, number), None);
                    }
                }
                Step::GiveUp(index) => {
                    if !waiting.is_empty() {
                        let (number, name, visit) = waiting.swap_remove(index % waiting.len());
                        prop_assert_eq!(queue.remove(&visit, number), Some(name));
                    }
                }
            }
        }
        prop_assert!(waiting.is_empty() && running.is_empty() && queue.is_empty());
    }

    /// Regardless of the other loads, a waiting load runs after its fair share of turns.
    #[test]
    fn nobody_starves(others in prop::collection::vec((0..3u64, 0..4u64, 1..17_usize), 1..200)) {
        let mut queue = FairQueue::new(1, 1_000);
        for (partition, context, cost) in &others {
            push(&mut queue, visit(*partition, *context, true, *cost));
        }
        let last = visit(9, 9, true, 16);
        push(&mut queue, last);
        let mut others = others.into_iter().cycle();
        let turns = (0..).take_while(|_| {
            let (_, number, next) = queue.pop().unwrap();
            queue.remove(&next, number);
            let (partition, context, cost) = others.next().unwrap();
            push(&mut queue, visit(partition, context, true, cost));
            next != last
        });
        // Each of the three partitions may first run a load of the maximum cost.
        prop_assert!(turns.count() <= 3 * 16 + 3);
    }
}
