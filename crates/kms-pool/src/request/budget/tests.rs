//! Tests of a budget with a paused clock.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::task::{JoinHandle, yield_now};
use tokio::time::advance;

use super::rate::FORGET_AFTER;
use super::*;
use Class::{Decrypt, Encrypt};
use Priority::{Background, Foreground};

const LONG: Duration = Duration::from_mins(1);
const UNLIMITED: BudgetSettings = BudgetSettings {
    max_in_flight: 1_000,
    max_per_second: None,
    decrypt_share: 1.0,
    encrypt_share: 1.0,
};

fn of(per_second: f64) -> BudgetSettings {
    BudgetSettings { max_per_second: Some(per_second), ..UNLIMITED }
}

fn budget(settings: BudgetSettings) -> Arc<Budget> {
    Arc::new(Budget::new(settings, monotonic()))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn enter(budget: &Budget, within: Duration) -> Result<Permit, TooLate> {
    budget.enter(Encrypt, Foreground, monotonic() + within).await
}

/// Enters the queue in a task, which returns when it could start.
async fn queue_up(
    budget: &Arc<Budget>,
    class: Class,
    priority: Priority,
) -> JoinHandle<Result<Duration, TooLate>> {
    let (budget, begun) = (Arc::clone(budget), monotonic());
    let task = tokio::spawn(async move {
        budget.enter(class, priority, begun + LONG).await.map(|_| monotonic() - begun)
    });
    yield_now().await;
    task
}

/// Learns a limit of 90: KMS accepts 100 requests in this second, and throttles one.
fn throttled_at_100(budget: &Budget, permit: &Permit) {
    (0..100).for_each(|_| budget.accepted(monotonic()));
    budget.throttled(permit, monotonic());
    assert_eq!(budget.limit(), Some(90.0));
}

#[tokio::test(start_paused = true)]
async fn requests_start_in_order_and_evenly_spaced() {
    let budget = budget(of(10.0));
    let mut tasks = vec![];
    for _ in 0..5 {
        tasks.push(queue_up(&budget, Encrypt, Foreground).await);
    }
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap(), Ok(millis(100 * number)));
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_a_twentieth_of_a_second_may_be_sent_at_once() {
    let budget = budget(of(100.0));
    sleep(SECOND).await;
    let begun = monotonic();
    for number in 0..8 {
        enter(&budget, LONG).await.unwrap();
        // Five unused starts, and the next one.
        assert_eq!(monotonic() - begun, millis(10 * u64::saturating_sub(number, 5)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_start_in_time_fails_at_once_and_uses_nothing_up() {
    let (budget, begun) = (budget(of(10.0)), monotonic());
    for _ in 0..5 {
        queue_up(&budget, Encrypt, Foreground).await;
    }
    for _ in 0..3 {
        assert_eq!(
            enter(&budget, millis(499)).await.err(),
            Some(TooLate { retry_after: millis(500) })
        );
    }
    assert_eq!(monotonic(), begun);
    assert!(enter(&budget, millis(500)).await.is_ok());
    assert_eq!(monotonic() - begun, millis(500));
}

#[tokio::test(start_paused = true)]
async fn cancelled_requests_leave_no_gap() {
    let (budget, begun) = (budget(of(10.0)), monotonic());
    enter(&budget, LONG).await.unwrap();
    let mut tasks = vec![];
    for class in [Encrypt, Decrypt].repeat(100) {
        tasks.push(queue_up(&budget, class, Foreground).await);
    }
    assert!(enter(&budget, SECOND).await.is_err());
    for task in tasks {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
    enter(&budget, SECOND).await.unwrap();
    assert_eq!(monotonic() - begun, millis(100));
    assert_eq!(budget.rate().waiting, [0; 2]);
}

#[tokio::test(start_paused = true)]
async fn requests_cancelled_while_they_wait_for_others_keep_no_permit() {
    let budget = budget(BudgetSettings { max_in_flight: 2, ..UNLIMITED });
    let held = [enter(&budget, LONG).await.unwrap(), enter(&budget, LONG).await.unwrap()];
    assert_eq!(enter(&budget, SECOND).await.err(), Some(TooLate { retry_after: SECOND }));
    for priority in [Foreground, Background] {
        let waiting = queue_up(&budget, Encrypt, priority).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
    }
    drop(held);
    assert_eq!(budget.in_flight.available_permits(), 2);
    assert_eq!(budget.background.available_permits(), 1);
    assert!(budget.by_class.iter().all(|class| class.available_permits() == 2));
}

#[tokio::test(start_paused = true)]
async fn a_class_uses_at_most_its_share() {
    let settings = BudgetSettings { max_in_flight: 4, decrypt_share: 0.5, ..of(10.0) };
    let (budget, begun) = (budget(settings), monotonic());
    let passed = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    for class in [Decrypt, Encrypt].repeat(50) {
        let (budget, passed) = (Arc::clone(&budget), Arc::clone(&passed[class as usize]));
        tokio::spawn(async move {
            budget.enter(class, Foreground, begun + LONG).await.unwrap();
            passed.fetch_add(1, Relaxed);
        });
    }
    sleep(millis(1_990)).await;
    assert_eq!(passed.map(|passed| passed.load(Relaxed)), [10, 10]);

    // A class alone gets no more either, and leaves the rest to the other.
    let budget = self::budget(settings);
    let mut tasks = vec![];
    for _ in 0..3 {
        tasks.push(queue_up(&budget, Decrypt, Foreground).await);
    }
    let late = budget.enter(Decrypt, Foreground, monotonic() + millis(599)).await;
    assert_eq!(late.err(), Some(TooLate { retry_after: millis(600) }));
    for (number, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap(), Ok(millis(200 * number)));
    }
    let decrypt = || budget.enter(Decrypt, Foreground, monotonic() + SECOND);
    let held = [decrypt().await.unwrap(), decrypt().await.unwrap()];
    assert!(decrypt().await.is_err());
    assert!(enter(&budget, SECOND).await.is_ok());
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn many_requests_of_one_class_do_not_delay_one_of_the_other() {
    let budget = budget(of(10.0));
    for _ in 0..100 {
        queue_up(&budget, Decrypt, Foreground).await;
    }
    let begun = monotonic();
    enter(&budget, millis(200)).await.unwrap();
    assert_eq!(monotonic() - begun, millis(200));
}

#[tokio::test(start_paused = true)]
async fn background_requests_start_when_no_other_one_waits() {
    let budget = budget(of(10.0));
    enter(&budget, LONG).await.unwrap();
    let background = queue_up(&budget, Encrypt, Background).await;
    let mut foreground = vec![];
    for _ in 0..3 {
        foreground.push(queue_up(&budget, Encrypt, Foreground).await);
    }
    for (number, task) in (1..).zip(foreground) {
        assert_eq!(task.await.unwrap(), Ok(millis(100 * number)));
    }
    assert!(background.await.unwrap().unwrap() >= millis(400));
    let late = budget.enter(Encrypt, Background, monotonic() + millis(50)).await;
    assert_eq!(late.err(), Some(TooLate { retry_after: millis(100) }));

    // A start that a late request will use is taken. A start that the waiting class may not use is
    // spare.
    let budget = self::budget(BudgetSettings { decrypt_share: 0.1, ..of(2_000.0) });
    enter(&budget, LONG).await.unwrap();
    queue_up(&budget, Encrypt, Foreground).await;
    advance(Duration::from_micros(600)).await;
    assert!(budget.enter(Decrypt, Background, monotonic()).await.is_err());
    sleep(millis(1)).await;
    for _ in 0..3 {
        queue_up(&budget, Decrypt, Foreground).await;
    }
    sleep(millis(1)).await;
    assert!(budget.enter(Encrypt, Background, monotonic()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_rate_drops_once_for_all_requests_sent_before_the_drop() {
    let budget = budget(UNLIMITED);
    let mut sent = vec![];
    for _ in 0..10 {
        sent.push(enter(&budget, LONG).await.unwrap());
    }
    sleep(millis(10)).await;
    throttled_at_100(&budget, &sent[0]);
    for permit in &sent {
        budget.throttled(permit, monotonic());
    }
    assert_eq!(budget.limit(), Some(90.0));
    sleep(millis(10)).await;
    let later = enter(&budget, LONG).await.unwrap();
    budget.throttled(&later, monotonic());
    assert_eq!(budget.limit(), Some(81.0));
}

#[tokio::test(start_paused = true)]
async fn a_queued_request_is_in_time_even_if_the_rate_drops_twice_more() {
    let budget = budget(UNLIMITED);
    let permit = enter(&budget, LONG).await.unwrap();
    sleep(millis(1)).await;
    throttled_at_100(&budget, &permit);
    sleep(millis(1)).await;
    let later = loop {
        // The starts of the burst.
        let permit = enter(&budget, LONG).await.unwrap();
        if monotonic() < budget.rate().next[0] {
            break permit;
        }
    };
    let (mut tasks, begun) = (vec![], monotonic());
    while budget.rate().expected_wait(Encrypt, 1.0, begun) <= SECOND {
        let budget = Arc::clone(&budget);
        tasks.push(tokio::spawn(async move { enter(&budget, SECOND).await.map(drop) }));
        yield_now().await;
    }
    assert_eq!(
        enter(&budget, SECOND).await.err().map(|late| late.retry_after > SECOND),
        Some(true)
    );
    assert_eq!((tasks.len(), monotonic()), (73, begun));
    budget.throttled(&later, monotonic());
    advance(Duration::from_micros(1)).await;
    budget.throttled(&Permit { _held: [None, None, None], entered: monotonic() }, monotonic());
    assert_eq!(budget.limit(), Some(72.9));
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lower_rate_applies_to_requests_that_already_wait() {
    let (budget, begun) = (budget(of(100.0)), monotonic());
    let first = enter(&budget, LONG).await.unwrap();
    let mut tasks = vec![];
    for _ in 0..3 {
        tasks.push(queue_up(&budget, Encrypt, Foreground).await);
    }
    (0..10).for_each(|_| budget.accepted(begun));
    budget.throttled(&first, begun);
    assert_eq!(budget.limit(), Some(9.0));
    let mut waited = vec![];
    for task in tasks {
        waited.push(task.await.unwrap().unwrap().as_millis());
    }
    // The second start was fixed before the drop.
    assert_eq!(waited, [10, 122, 233]);
}

#[tokio::test(start_paused = true)]
async fn the_rate_grows_only_while_it_limits() {
    let budget = budget(UNLIMITED);
    let permit = enter(&budget, LONG).await.unwrap();
    throttled_at_100(&budget, &permit);
    for _ in 0..30 {
        sleep(SECOND).await;
        enter(&budget, LONG).await.unwrap();
        budget.accepted(monotonic());
    }
    assert_eq!(budget.limit(), Some(90.0));

    // With as many requests as the limit allows, it grows by one (which is more than a hundredth)
    // in the first second, then by two, then by four.
    let begun = monotonic();
    for seconds in 1..=3 {
        while monotonic() - begun < SECOND * seconds {
            enter(&budget, LONG).await.unwrap();
            budget.accepted(monotonic());
        }
        let grown = budget.limit().unwrap() - 90.0;
        let about = f64::from(2_u32.pow(seconds) - 1) / std::f64::consts::LN_2;
        assert!((grown / about - 1.0).abs() < 0.1, "{seconds}: {grown} and not {about}");
    }

    // After another drop, the growth starts over.
    let permit = enter(&budget, LONG).await.unwrap();
    budget.throttled(&permit, monotonic());
    let (fallen, begun) = (budget.limit().unwrap(), monotonic());
    while monotonic() - begun < SECOND {
        enter(&budget, LONG).await.unwrap();
        budget.accepted(monotonic());
    }
    assert!(
        (1.0..2.0).contains(&(budget.limit().unwrap() - fallen)),
        "{:?} after {fallen}",
        budget.limit()
    );
}

#[tokio::test(start_paused = true)]
async fn the_rate_never_exceeds_the_configured_one() {
    let budget = budget(of(50.0));
    let permit = enter(&budget, LONG).await.unwrap();
    (0..50).for_each(|_| budget.accepted(monotonic()));
    budget.throttled(&permit, monotonic());
    assert_eq!(budget.limit(), Some(45.0));
    for _ in 0..1_000 {
        enter(&budget, LONG).await.unwrap();
        budget.accepted(monotonic());
    }
    assert_eq!(budget.limit(), Some(50.0));
}

#[tokio::test(start_paused = true)]
async fn a_learned_rate_is_forgotten_after_five_minutes_without_throttling() {
    for set in [None, Some(500.0)] {
        let budget = budget(BudgetSettings { max_per_second: set, ..UNLIMITED });
        let permit = enter(&budget, LONG).await.unwrap();
        throttled_at_100(&budget, &permit);
        sleep(FORGET_AFTER).await;
        budget.accepted(monotonic());
        assert_eq!(budget.limit(), Some(90.0));
        sleep(millis(1)).await;
        budget.accepted(monotonic());
        assert_eq!(budget.limit(), set);
    }
}
