//! Each cell of the outage matrix: what the caller sees while the fault lasts, and that it goes on
//! afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use benches::outage::{Cell, Fault, Operation, State};

async fn check(fault: Fault, state: State, operation: Operation) {
    let cell = Cell { fault, state, operation };
    let outcome = cell.run().await.unwrap();
    assert_eq!(outcome.answers, cell.expected());
    assert!(outcome.recovery.is_some(), "it never succeeds again");
}

macro_rules! fault {
    ($module:ident, $fault:ident) => {
        mod $module {
            use super::*;

            state!(cold, $fault, Cold);
            state!(warm, $fault, Warm);
            state!(at_expiry, $fault, AtExpiry);
            state!(in_grace, $fault, InGrace);
        }
    };
}

macro_rules! state {
    ($module:ident, $fault:ident, $state:ident) => {
        mod $module {
            use super::*;

            #[tokio::test]
            async fn encrypt() {
                check(Fault::$fault, State::$state, Operation::Encrypt).await;
            }

            #[tokio::test]
            async fn decrypt() {
                check(Fault::$fault, State::$state, Operation::Decrypt).await;
            }
        }
    };
}

fault!(timeout, Timeout);
fault!(hang, Hang);
fault!(reset, Reset);
fault!(internal_error, InternalError);
fault!(throttle, Throttle);
fault!(access_denied, AccessDenied);
fault!(disabled, Disabled);
fault!(expired_credentials, ExpiredCredentials);
