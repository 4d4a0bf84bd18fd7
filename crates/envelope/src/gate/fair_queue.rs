//! The order in which loads pass a gate. Pure logic: no lock, no clock, no task.
//!
//! Scheduling is fair between partitions, and within a partition between the encryption contexts
//! that callers supplied. Each load is charged by its cost, and the next load is taken from the
//! queue with the lowest total cost (start-time fair queuing, Goyal et al. 1996). A queue that
//! becomes active again after a pause starts at the current total, so it cannot save up credit.

use std::collections::{HashMap, VecDeque};

/// How many contexts can fill their waiting room at the same time.
const CONTEXTS: usize = 16;
/// Limits the cost of a load, so that sums cannot overflow.
const MAX_COST: u64 = 1 << 16;
/// A waiting load counts as one more for each of these many bytes that it holds.
const BYTES_AS_ONE: usize = 4096;

/// The properties of a load that determine its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    /// The hash of the partition.
    pub(crate) partition: u64,
    /// The hash of the encryption context that the caller supplied. A sender of messages cannot
    /// choose it.
    pub(crate) context: u64,
    /// Whether no caller waits for the load yet. Such loads run after all others.
    pub(crate) ahead: bool,
    /// Whether the loaded value is known to be useful. Unproven loads leave some room for others.
    pub(crate) proven: bool,
    /// How many requests to the key provider the load may take.
    pub(crate) requests: usize,
    /// How many bytes the load holds while it waits.
    pub(crate) bytes: usize,
}

impl Visit {
    fn cost(&self) -> u64 {
        u64::try_from(self.requests).unwrap_or(u64::MAX).clamp(1, MAX_COST)
    }

    /// How many waiting loads it counts as.
    fn room(&self) -> usize {
        1 + self.bytes / BYTES_AS_ONE
    }

    fn queue(&self) -> usize {
        queue(self.ahead, self.proven)
    }
}

fn queue(ahead: bool, proven: bool) -> usize {
    usize::from(ahead) * 2 + usize::from(!proven)
}

/// The waiting and the running loads.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// How many loads may run at once.
    width: usize,
    /// How many of them may be unproven: in all, per partition, per context.
    max_unproven: [usize; 3],
    /// How many loads may wait: of one context, in all.
    max_waiting: [usize; 2],
    partitions: HashMap<u64, Partition<T>>,
    /// The total cost of the last scheduled partition, before it was charged.
    charged: u64,
    running: usize,
    unproven: usize,
    waiting: usize,
    pushed: u64,
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
    /// The waiting loads: those that callers wait for before those ahead, and then proven before
    /// unproven.
    queues: [VecDeque<(u64, T, Visit)>; 4],
    /// The numbers of the running loads.
    running: Vec<u64>,
    cost: u64,
    unproven: usize,
}

impl<T> FairQueue<T> {
    /// Returns an empty queue. `width` loads may run at once, and `waiting` loads of each context
    /// may wait.
    ///
    /// Unproven loads leave room for others: those of one context leave a quarter, those of one
    /// partition an eighth, and all of them together a sixteenth.
    pub(super) fn new(width: usize, waiting: usize) -> Self {
        Self {
            width,
            max_unproven: [16, 8, 4].map(|share| (width - width / share).max(1)),
            max_waiting: [waiting, waiting.saturating_mul(CONTEXTS)],
            partitions: HashMap::new(),
            charged: 0,
            running: 0,
            unproven: 0,
            waiting: 0,
            pushed: 0,
        }
    }

    /// Adds a load, which waits until [`pop`](Self::pop) returns it.
    ///
    /// Returns its number, and the waiter that it has displaced, because too many wait.
    ///
    /// # Errors
    ///
    /// Its own waiter, if too many wait.
    pub(super) fn push(&mut self, visit: Visit, waiter: T) -> Result<(u64, Option<T>), T> {
        let [of_context, in_all] = self.max_waiting;
        let own = self.context(&visit).map_or(0, Context::waiting);
        if own >= of_context {
            return Err(waiter);
        }
        let mut displaced = None;
        if self.waiting >= in_all {
            let of_partition = self.partitions.get(&visit.partition).map_or(0, |it| it.waiting);
            match self.longest(own, of_partition) {
                None => return Err(waiter),
                Some((partition, context)) => displaced = self.remove_last(partition, context),
            }
        }
        self.pushed += 1;
        let charged = self.charged;
        let partition = self.partitions.entry(visit.partition).or_insert_with(Partition::new);
        if partition.waiting == 0 {
            partition.cost = partition.cost.max(charged);
        }
        partition.waiting += visit.room();
        let charged = partition.charged;
        let context = partition.contexts.entry(visit.context).or_insert_with(Context::new);
        if context.waiting() == 0 {
            context.cost = context.cost.max(charged);
        }
        context.queues[visit.queue()].push_back((self.pushed, waiter, visit));
        self.waiting += visit.room();
        Ok((self.pushed, displaced))
    }

    /// Returns the next load to run, if there is room for one: its waiter, number and properties.
    pub(super) fn pop(&mut self) -> Option<(T, u64, Visit)> {
        if self.running >= self.width {
            return None;
        }
        let (partition, context, queue) = self.choose(false).or_else(|| self.choose(true))?;
        let partition = self.partitions.get_mut(&partition)?;
        let context = partition.contexts.get_mut(&context)?;
        let (number, waiter, visit) = context.queues[queue].pop_front()?;
        let unproven = usize::from(!visit.proven);
        partition.charged = partition.charged.max(context.cost);
        context.cost += visit.cost();
        context.running.push(number);
        context.unproven += unproven;
        self.charged = self.charged.max(partition.cost);
        partition.cost += visit.cost();
        partition.running += 1;
        partition.unproven += unproven;
        partition.waiting -= visit.room();
        self.running += 1;
        self.unproven += unproven;
        self.waiting -= visit.room();
        Some((waiter, number, visit))
    }

    /// Removes a load that has ended, or that does not want to wait any longer.
    ///
    /// Returns its waiter, if it was still waiting. Does nothing if it was displaced.
    pub(super) fn remove(&mut self, visit: &Visit, number: u64) -> Option<T> {
        let partition = self.partitions.get_mut(&visit.partition)?;
        let context = partition.contexts.get_mut(&visit.context)?;
        let mut waiter = None;
        if let Some(at) = context.running.iter().position(|it| *it == number) {
            let unproven = usize::from(!visit.proven);
            context.running.swap_remove(at);
            context.unproven -= unproven;
            partition.running -= 1;
            partition.unproven -= unproven;
            self.running -= 1;
            self.unproven -= unproven;
        } else {
            let queue = &mut context.queues[visit.queue()];
            let at = queue.binary_search_by_key(&number, |(number, ..)| *number).ok()?;
            waiter = queue.remove(at).map(|(_, waiter, _)| waiter);
            partition.waiting -= visit.room();
            self.waiting -= visit.room();
        }
        self.forget_if_idle(visit);
        waiter
    }

    /// Returns the partition, context and queue of the next load.
    fn choose(&self, ahead: bool) -> Option<(u64, u64, usize)> {
        let [in_all, of_partition, of_context] = self.max_unproven;
        let eligible = |partition: &Partition<T>, context: &Context<T>| {
            let proven = queue(ahead, true);
            if !context.queues[proven].is_empty() {
                return Some(proven);
            }
            let unproven = queue(ahead, false);
            let has_room = self.unproven < in_all
                && partition.unproven < of_partition
                && context.unproven < of_context;
            (has_room && !context.queues[unproven].is_empty()).then_some(unproven)
        };
        let waiting = self.partitions.iter().filter(|(_, partition)| partition.waiting > 0);
        let of_each = waiting.filter_map(|(number, partition)| {
            let contexts = partition.contexts.iter().filter_map(|(number, context)| {
                let queue = eligible(partition, context)?;
                // Ties go to the load that came first.
                let (first, ..) = context.queues[queue].front()?;
                Some(((context.cost, *first), *number, queue))
            });
            let (rank, context, queue) = contexts.min()?;
            Some(((partition.cost, rank.1), (*number, context, queue)))
        });
        of_each.min().map(|(_, chosen)| chosen)
    }

    fn context(&self, visit: &Visit) -> Option<&Context<T>> {
        self.partitions.get(&visit.partition)?.contexts.get(&visit.context)
    }

    /// Returns the context with the most waiting loads, in the partition with the most waiting
    /// loads. Returns `None` if neither of them has more than the context and partition of a new
    /// load would have. Losing one load matters least there.
    fn longest(&self, own: usize, of_partition: usize) -> Option<(u64, u64)> {
        let (number, partition) =
            self.partitions.iter().max_by_key(|(_, partition)| partition.waiting)?;
        let contexts = partition.contexts.iter().map(|(number, it)| (number, it.waiting()));
        let (context, of_context) = contexts.max_by_key(|(_, waiting)| *waiting)?;
        let is_longer = of_context > own + 1 || partition.waiting > of_partition + 1;
        is_longer.then_some((*number, *context))
    }

    /// Removes the last waiting load of a context.
    fn remove_last(&mut self, partition: u64, context: u64) -> Option<T> {
        let queues = &self.partitions.get(&partition)?.contexts.get(&context)?.queues;
        // Loads ahead before others, and unproven before proven loads.
        let (number, _, visit) = queues.iter().rev().find_map(VecDeque::back)?;
        let (number, visit) = (*number, *visit);
        self.remove(&visit, number)
    }

    /// Removes the context and the partition if they have no waiting or running loads.
    fn forget_if_idle(&mut self, visit: &Visit) {
        let Some(partition) = self.partitions.get_mut(&visit.partition) else { return };
        if partition.contexts.get(&visit.context).is_some_and(Context::is_idle) {
            partition.contexts.remove(&visit.context);
        }
        if partition.waiting == 0 && partition.running == 0 {
            self.partitions.remove(&visit.partition);
        }
        if self.partitions.is_empty() {
            self.charged = 0;
        }
    }

    /// Returns whether there are no loads and no partitions left.
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
        Self { queues, running: vec![], cost: 0, unproven: 0 }
    }

    fn waiting(&self) -> usize {
        self.queues.iter().flatten().map(|(.., visit)| visit.room()).sum()
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queues.iter().all(VecDeque::is_empty)
    }
}

#[cfg(test)]
mod tests;
