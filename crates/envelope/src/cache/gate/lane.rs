//! The order in which loads pass a gate. Pure logic: no lock, no clock, no task.
//!
//! Scheduling is fair between partitions, and within a partition between the encryption contexts
//! that callers supplied. Each load is charged by its cost, and the next load is taken from the
//! queue with the lowest total cost (start-time fair queueing, Goyal et al. 1996). A queue that
//! becomes active again after a pause starts at the current total, so it cannot save up credit.

use std::collections::{HashMap, VecDeque};

/// Foreground loads are scheduled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A caller waits for the load.
    Foreground,
    /// No caller waits for the load yet.
    Background,
}

/// The properties of a load that determine its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(super) partition: u64,
    /// The encryption context that the caller supplied.
    pub(super) context: u64,
    pub(super) priority: Priority,
    /// Whether the loaded value is known to be useful.
    pub(super) proven: bool,
    /// How many requests the load may take.
    pub(super) cost: u64,
    /// How many waiting loads it counts as, by its size.
    pub(super) room: usize,
}

impl Visit {
    fn queue(&self) -> usize {
        queue(self.priority, self.proven)
    }
}

fn queue(priority: Priority, proven: bool) -> usize {
    usize::from(priority == Priority::Background) * 2 + usize::from(!proven)
}

/// How many loads may run at once, and how many may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub(super) all: usize,
    /// Limits on running loads that are not proven: in all, per partition, per context.
    unproven: [usize; 3],
    /// How many loads of one context may wait, and how many in all.
    waiting: [usize; 2],
}

impl Widths {
    /// Unproven loads leave room for others: those of one context leave a quarter, those of one
    /// partition an eighth, and all of them together a sixteenth.
    pub(super) fn new(all: usize, waiting: usize) -> Self {
        let unproven = [16, 8, 4].map(|share| (all - all / share).max(1));
        Self { all, unproven, waiting: [waiting, waiting.saturating_mul(CONTEXTS)] }
    }
}

/// So many contexts can fill their waiting room at the same time.
const CONTEXTS: usize = 16;

/// The waiting loads, and counts of the running ones.
#[derive(Debug)]
pub(super) struct Lane<T> {
    widths: Widths,
    partitions: HashMap<u64, Partition<T>>,
    /// The total cost of the last scheduled partition, before it was charged.
    charged: u64,
    running: usize,
    unproven: usize,
    waiting: usize,
    came: u64,
}

#[derive(Debug)]
struct Partition<T> {
    contexts: HashMap<u64, Context<T>>,
    cost: u64,
    charged: u64,
    running: usize,
    unproven: usize,
    waiting: usize,
}

#[derive(Debug)]
struct Context<T> {
    /// Ordered by priority, and then proven before unproven.
    queues: [VecDeque<(u64, T, Visit)>; 4],
    cost: u64,
    running: usize,
    unproven: usize,
}

/// How many loads wait.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    of_context: usize,
    of_partition: usize,
}

/// The result of adding a load.
#[derive(Debug)]
pub(super) enum Admission<T> {
    /// The load waits, under this number.
    Waits(u64),
    /// The load waits, and another waiter must be rejected instead, because too many wait.
    Replaces(u64, T),
    /// The load must be rejected, because too many wait.
    Full(T),
}

impl<T> Lane<T> {
    pub(super) fn new(widths: Widths) -> Self {
        let partitions = HashMap::new();
        Self { widths, partitions, charged: 0, running: 0, unproven: 0, waiting: 0, came: 0 }
    }

    /// Adds a load, which waits until [`next`](Self::next) returns it.
    pub(super) fn come(&mut self, visit: Visit, waiter: T) -> Admission<T> {
        let [of_context, in_all] = self.widths.waiting;
        let own = self.context(&visit).map_or(0, Context::waiting);
        if own >= of_context {
            return Admission::Full(waiter);
        }
        let mut replaced = None;
        if self.waiting >= in_all {
            // Take the place from the longest queue, where it makes the least difference.
            let of_partition = self.partitions.get(&visit.partition).map_or(0, |it| it.waiting);
            let longest = self.longest().filter(|(_, waiting)| {
                waiting.of_context > own + 1 || waiting.of_partition > of_partition + 1
            });
            match longest {
                None => return Admission::Full(waiter),
                Some(((partition, context), _)) => {
                    replaced = self.take_last(partition, context);
                }
            }
        }
        self.came += 1;
        let number = self.came;
        let charged = self.charged;
        let partition = self.partitions.entry(visit.partition).or_insert_with(Partition::new);
        if partition.waiting == 0 {
            partition.cost = partition.cost.max(charged);
        }
        partition.waiting += visit.room;
        let charged = partition.charged;
        let context = partition.contexts.entry(visit.context).or_insert_with(Context::new);
        if context.waiting() == 0 {
            context.cost = context.cost.max(charged);
        }
        context.queues[visit.queue()].push_back((number, waiter, visit));
        self.waiting += visit.room;
        match replaced {
            Some(replaced) => Admission::Replaces(number, replaced),
            None => Admission::Waits(number),
        }
    }

    /// Returns the next load to run, if there is room for one.
    pub(super) fn next(&mut self) -> Option<(Visit, T)> {
        if self.running >= self.widths.all {
            return None;
        }
        let chosen = self.choose(Priority::Foreground);
        let (number, context, queue) = chosen.or_else(|| self.choose(Priority::Background))?;
        let partition = self.partitions.get_mut(&number)?;
        let context = partition.contexts.get_mut(&context)?;
        let (_, waiter, visit) = context.queues[queue].pop_front()?;
        let unproven = usize::from(!visit.proven);
        partition.charged = partition.charged.max(context.cost);
        context.cost += visit.cost;
        context.running += 1;
        context.unproven += unproven;
        self.charged = self.charged.max(partition.cost);
        partition.cost += visit.cost;
        partition.running += 1;
        partition.unproven += unproven;
        partition.waiting -= visit.room;
        self.running += 1;
        self.unproven += unproven;
        self.waiting -= visit.room;
        Some((visit, waiter))
    }

    /// Records that a running load has ended.
    pub(super) fn leave(&mut self, visit: &Visit) {
        let unproven = usize::from(!visit.proven);
        self.running -= 1;
        self.unproven -= unproven;
        if let Some(partition) = self.partitions.get_mut(&visit.partition) {
            partition.running -= 1;
            partition.unproven -= unproven;
            if let Some(context) = partition.contexts.get_mut(&visit.context) {
                context.running -= 1;
                context.unproven -= unproven;
            }
        }
        self.forget(visit.partition, visit.context);
    }

    /// Removes the waiting load with this number, unless it is already running.
    pub(super) fn give_up(&mut self, visit: &Visit, number: u64) -> Option<T> {
        let partition = self.partitions.get_mut(&visit.partition)?;
        let queue = &mut partition.contexts.get_mut(&visit.context)?.queues[visit.queue()];
        let at = queue.binary_search_by_key(&number, |(number, ..)| *number).ok()?;
        let (_, waiter, _) = queue.remove(at)?;
        partition.waiting -= visit.room;
        self.waiting -= visit.room;
        self.forget(visit.partition, visit.context);
        Some(waiter)
    }

    /// The partition, context and queue of the next load.
    fn choose(&self, priority: Priority) -> Option<(u64, u64, usize)> {
        let [in_all, of_partition, of_context] = self.widths.unproven;
        let eligible = |partition: &Partition<T>, context: &Context<T>| {
            let proven = queue(priority, true);
            if !context.queues[proven].is_empty() {
                return Some(proven);
            }
            let unproven = queue(priority, false);
            let room = self.unproven < in_all
                && partition.unproven < of_partition
                && context.unproven < of_context;
            (room && !context.queues[unproven].is_empty()).then_some(unproven)
        };
        let waiting = self.partitions.iter().filter(|(_, partition)| partition.waiting > 0);
        let of_each = waiting.filter_map(|(number, partition)| {
            let contexts = partition.contexts.iter().filter_map(|(number, context)| {
                let queue = eligible(partition, context)?;
                // Ties go to the load that came first.
                let (came, ..) = context.queues[queue].front()?;
                Some(((context.cost, *came), *number, queue))
            });
            let (rank, context, queue) = contexts.min()?;
            Some(((partition.cost, rank.1), (*number, context, queue)))
        });
        of_each.min().map(|(_, chosen)| chosen)
    }

    fn context(&self, visit: &Visit) -> Option<&Context<T>> {
        self.partitions.get(&visit.partition)?.contexts.get(&visit.context)
    }

    /// The context with the most waiting loads, in the partition with the most.
    fn longest(&self) -> Option<((u64, u64), Waiting)> {
        let longest = self.partitions.iter().max_by_key(|(_, partition)| partition.waiting);
        let (number, partition) = longest?;
        let contexts = partition.contexts.iter();
        let (context, of_context) =
            contexts.map(|(number, it)| (number, it.waiting())).max_by_key(|(_, it)| *it)?;
        Some(((*number, *context), Waiting { of_context, of_partition: partition.waiting }))
    }

    /// Removes the last waiting load of a context.
    fn take_last(&mut self, partition: u64, context: u64) -> Option<T> {
        let queues = &self.partitions.get(&partition)?.contexts.get(&context)?.queues;
        // Background before foreground, and unproven before proven loads.
        let (number, _, visit) = queues.iter().rev().find_map(VecDeque::back)?;
        let (number, visit) = (*number, *visit);
        self.give_up(&visit, number)
    }

    /// Removes contexts and partitions without waiting or running loads.
    fn forget(&mut self, number: u64, context: u64) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if partition.contexts.get(&context).is_some_and(Context::is_idle) {
            partition.contexts.remove(&context);
        }
        if partition.waiting == 0 && partition.running == 0 {
            self.partitions.remove(&number);
        }
        if self.partitions.is_empty() {
            self.charged = 0;
        }
    }

    /// Whether there are no loads and no partitions left.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.running + self.unproven + self.waiting == 0
    }
}

impl<T> Partition<T> {
    fn new() -> Self {
        Self { contexts: HashMap::new(), cost: 0, charged: 0, running: 0, unproven: 0, waiting: 0 }
    }
}

impl<T> Context<T> {
    fn new() -> Self {
        let queues = std::array::from_fn(|_| VecDeque::new());
        Self { queues, cost: 0, running: 0, unproven: 0 }
    }

    fn waiting(&self) -> usize {
        self.queues.iter().flatten().map(|(.., visit)| visit.room).sum()
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.queues.iter().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn visit(partition: u64, context: u64, proven: bool, cost: u64) -> Visit {
        Visit { partition, context, priority: Priority::Foreground, proven, cost, room: 1 }
    }

    fn come(lane: &mut Lane<u64>, visit: Visit) -> u64 {
        match lane.come(visit, 0) {
            Admission::Waits(number) => number,
            other => panic!("{other:?}"),
        }
    }

    /// One context floods the gate, and then many contexts of one partition do: a later load of
    /// another one is next as soon as a running load ends.
    #[test]
    fn a_load_after_a_flood_is_next() {
        for contexts in [1, 50] {
            let mut lane = Lane::new(Widths::new(4, 1_000));
            (0..500).for_each(|number| _ = come(&mut lane, visit(1, number % contexts, true, 1)));
            let first: Vec<_> = std::iter::from_fn(|| lane.next()).collect();
            assert_eq!(first.len(), 4);
            // After a few turns, so that the order of arrival does not matter.
            let mut running = vec![];
            for (done, _) in &first {
                lane.leave(done);
                running.extend(lane.next());
            }
            let other = visit(2, 0, true, 1);
            come(&mut lane, other);
            lane.leave(&running[0].0);
            assert_eq!(lane.next().map(|(next, _)| next), Some(other));
        }
    }

    #[test]
    fn expensive_loads_run_less_often() {
        let mut lane = Lane::new(Widths::new(1, 1_000));
        for _ in 0..170 {
            come(&mut lane, visit(1, 1, true, 16));
            come(&mut lane, visit(1, 2, true, 1));
        }
        let mut turns = [0, 0];
        for _ in 0..170 {
            let (next, _) = lane.next().unwrap();
            turns[usize::from(next.context == 2)] += 1;
            lane.leave(&next);
        }
        assert_eq!(turns, [10, 160]);
    }

    #[test]
    fn unproven_loads_leave_room_for_others() {
        let mut lane = Lane::new(Widths::new(16, 1_000));
        let passed = |lane: &mut Lane<u64>, partition, context, proven| {
            (0..20).for_each(|_| _ = come(lane, visit(partition, context, proven, 1)));
            std::iter::from_fn(|| lane.next()).count()
        };
        assert_eq!(passed(&mut lane, 1, 1, false), 12, "of one context");
        assert_eq!(passed(&mut lane, 1, 2, false), 2, "of one partition");
        assert_eq!(passed(&mut lane, 2, 1, false), 1, "in all");
        assert_eq!(passed(&mut lane, 1, 1, true), 1, "proven");
    }

    #[test]
    fn a_narrow_gate_lets_a_load_pass() {
        for width in 1..40 {
            let mut lane = Lane::new(Widths::new(width, 1_000));
            come(&mut lane, visit(1, 1, false, 1));
            assert!(lane.next().is_some());
        }
    }

    /// One context cannot take all the waiting room.
    #[test]
    fn a_full_lane_admits_contexts_with_few_waiters() {
        let mut lane = Lane::new(Widths::new(1, 10));
        for number in 0..1_000 {
            let _ = lane.come(visit(1, number % 16, true, 1), number);
        }
        assert_eq!(lane.waiting, 160);
        assert!(matches!(lane.come(visit(1, 3, true, 1), 0), Admission::Full(_)));
        for partition in 2..10 {
            let admission = lane.come(visit(partition, 0, true, 1), 0);
            assert!(matches!(admission, Admission::Replaces(..)), "{admission:?}");
        }
        assert_eq!(lane.waiting, 160);
    }

    /// Waiting loads hold the headers of their messages.
    #[test]
    fn large_waiting_loads_count_as_several() {
        let mut lane = Lane::new(Widths::new(1, 10));
        for _ in 0..2 {
            come(&mut lane, Visit { room: 6, ..visit(1, 1, true, 1) });
        }
        assert!(matches!(lane.come(visit(1, 1, true, 1), 0), Admission::Full(_)));
        assert!(lane.next().is_some());
        come(&mut lane, visit(1, 1, true, 1));
        assert_eq!(lane.waiting, 7);
    }

    /// One partition cannot take all the waiting room either, with many contexts that each have one
    /// load.
    #[test]
    fn a_lane_full_of_many_contexts_admits_other_partitions() {
        let mut lane = Lane::new(Widths::new(1, 10));
        for number in 0..160 {
            come(&mut lane, visit(1, number, true, 1));
        }
        assert!(matches!(lane.come(visit(1, 999, true, 1), 0), Admission::Full(_)));
        for context in 0..79 {
            let admission = lane.come(visit(2, context, true, 1), 0);
            assert!(matches!(admission, Admission::Replaces(..)), "{context}: {admission:?}");
        }
        // Neither partition displaces the other any further.
        for partition in [1, 2] {
            lane.come(visit(partition, 1_000, true, 1), 0);
            let admission = lane.come(visit(partition, 2_000, true, 1), 0);
            assert!(matches!(admission, Admission::Full(_)), "{partition}: {admission:?}");
        }
        assert_eq!(lane.waiting, 160);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Come(Visit),
        Next,
        Leave(usize),
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let come = (0..3u64, 0..4u64, any::<bool>(), any::<bool>(), 1..17u64).prop_map(
            |(partition, context, background, proven, cost)| {
                let priority =
                    [Priority::Foreground, Priority::Background][usize::from(background)];
                Step::Come(Visit { partition, context, priority, proven, cost, room: 1 })
            },
        );
        let step = prop_oneof![
            4 => come,
            3 => Just(Step::Next),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// For any sequence of loads that come, end and are cancelled: no limit is exceeded,
        /// foreground loads run first, cancelled loads never run, no room stays empty while a load
        /// may use it, all waiting loads run eventually, and no state is left at the end.
        #[test]
        fn limits_hold_and_all_loads_run_in_the_end(steps in steps(), width in 1..20usize) {
            let widths = Widths::new(width, 8);
            let mut lane = Lane::new(widths);
            let (mut waiting, mut running): (Vec<(u64, u64, Visit)>, Vec<Visit>) = (vec![], vec![]);
            let (mut names, end) = (0, std::iter::repeat_n([Step::Next, Step::Leave(0)], 1_000));
            for step in steps.into_iter().chain(end.flatten()) {
                match step {
                    Step::Come(visit) => {
                        names += 1;
                        let same = |it: &&(u64, u64, Visit)| {
                            (it.2.partition, it.2.context) == (visit.partition, visit.context)
                        };
                        let own = waiting.iter().filter(same).count();
                        match lane.come(visit, names) {
                            Admission::Waits(number) => waiting.push((number, names, visit)),
                            Admission::Replaces(number, gone) => {
                                waiting.retain(|(_, name, _)| *name != gone);
                                waiting.push((number, names, visit));
                            }
                            Admission::Full(_) => prop_assert!(own >= 8 || waiting.len() >= 128),
                        }
                        prop_assert!(own < 8 || waiting.iter().filter(same).count() == own);
                    }
                    Step::Next => {
                        let may_pass = |visit: &Visit| {
                            let unproven = |same: &dyn Fn(&Visit) -> bool| {
                                running.iter().filter(|it| !it.proven && same(it)).count()
                            };
                            let [all, of_partition, of_context] = widths.unproven;
                            running.len() < width && (visit.proven || unproven(&|_| true) < all
                                && unproven(&|it| it.partition == visit.partition) < of_partition
                                && unproven(&|it| (it.partition, it.context)
                                    == (visit.partition, visit.context)) < of_context)
                        };
                        let may: Vec<_> =
                            waiting.iter().map(|it| it.2).filter(may_pass).collect();
                        let next = lane.next();
                        prop_assert_eq!(next.is_some(), !may.is_empty());
                        if let Some((visit, name)) = next {
                            prop_assert!(may_pass(&visit));
                            let first = may.iter().any(|it| it.priority == Priority::Foreground);
                            prop_assert!(!first || visit.priority == Priority::Foreground);
                            let before = waiting.len();
                            waiting.retain(|(_, it, _)| *it != name);
                            prop_assert_eq!(waiting.len(), before - 1);
                            running.push(visit);
                        }
                    }
                    Step::Leave(index) => {
                        if !running.is_empty() {
                            lane.leave(&running.swap_remove(index % running.len()));
                        }
                    }
                    Step::GiveUp(index) => {
                        if !waiting.is_empty() {
                            let (number, name, visit) = waiting.swap_remove(index % waiting.len());
                            prop_assert_eq!(lane.give_up(&visit, number), Some(name));
                        }
                    }
                }
            }
            prop_assert!(waiting.is_empty() && running.is_empty() && lane.is_empty());
        }

        /// Regardless of the other loads, a waiting load runs after its fair share of turns.
        #[test]
        fn nobody_starves(others in prop::collection::vec((0..3u64, 0..4u64, 1..17u64), 1..200)) {
            let mut lane = Lane::new(Widths::new(1, 1_000));
            for (partition, context, cost) in &others {
                come(&mut lane, visit(*partition, *context, true, *cost));
            }
            let last = visit(9, 9, true, 16);
            come(&mut lane, last);
            let mut others = others.into_iter().cycle();
            let turns = (0..).take_while(|_| {
                let (next, _) = lane.next().unwrap();
                lane.leave(&next);
                let (partition, context, cost) = others.next().unwrap();
                come(&mut lane, visit(partition, context, true, cost));
                next != last
            });
            // Each of the three partitions may first run a load of the maximum cost.
            prop_assert!(turns.count() <= 3 * 16 + 3);
        }
    }
}
