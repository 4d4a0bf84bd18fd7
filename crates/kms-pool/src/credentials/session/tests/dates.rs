//! Tests of a session while the date jumps.

use super::*;

#[tokio::test]
async fn a_date_that_jumps_ahead_and_back_blocks_no_refresh() {
    let provider =
        Provider::open(&[Answer::Keys(1, Some(1000)), Answer::Failure, Answer::Keys(3, None)]);
    let session = session(&provider);
    assert_eq!(number(&session, 0).await, 1);
    // Two hours ahead, for five seconds.
    let ahead = dated(date(7200), 10);
    assert!(session.credentials(ahead).await.is_err());
    assert_eq!(number(&session, 15).await, 1, "they are valid after all");
    // The earlier failure is neither returned nor waited for.
    let of_three = session.credentials(at(1001)).await.unwrap();
    assert_eq!((number_of(&of_three), provider.asked()), (3, 3));
}

#[tokio::test]
async fn a_date_that_jumps_back_does_not_change_the_limit_on_rejections() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, None)).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    let refuse = async |now| {
        let of = Fingerprint::of(&session.credentials(now).await.unwrap());
        session.rejected(of, now).await
    };
    for second in 0..MAX_REJECTIONS {
        assert!(refuse(dated(date(7200), u64::from(second))).await);
    }
    assert!(!refuse(dated(date(9), 9)).await);
    assert!(refuse(dated(date(10), 10)).await, "one every ten seconds, independent of the date");
}

#[tokio::test]
async fn credentials_that_always_look_expired_are_used_and_refreshed_less_often() {
    let answers: Vec<_> = (1..100).map(|number| Answer::Keys(number, Some(100))).collect();
    let provider = Provider::open(&answers);
    let session = session(&provider);
    for second in 0..60 {
        // With a clock that is far ahead.
        session.credentials(dated(date(1_000_000 + second), second)).await.unwrap();
        settle(&session).await;
    }
    // Refreshed after 1, 2, 4, 8, 16, … seconds.
    assert_eq!(provider.asked(), 6);
}
