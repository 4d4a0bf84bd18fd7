//! Long work that yields to other tasks in between.

use crate::{error::Error, message::Slices};

/// Does all of the work, and yields after each slice. After a failure, also yields while the output
/// is wiped.
pub(super) async fn finish_yielding(work: &mut impl Slices) -> Result<(), Error> {
    loop {
        match work.next_slice() {
            Ok(true) => return Ok(()),
            Ok(false) => pause().await,
            Err(error) => {
                while work.wipe_slice() {
                    pause().await;
                }
                return Err(error);
            }
        }
    }
}

/// Lets the executor run other tasks.
#[cfg(feature = "tokio")]
pub(super) async fn pause() {
    tokio::task::yield_now().await;
}

/// Lets the executor run other tasks.
#[cfg(not(feature = "tokio"))]
pub(super) async fn pause() {
    let mut paused = false;
    let pause = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    pause.await;
}
