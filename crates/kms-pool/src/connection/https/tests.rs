//! Tests of reused, dropped and cancelled requests over plain connections.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn https() -> HttpsClient {
    let settings = ConnectionSettings::default();
    Connections::new(settings, Arc::default()).unwrap().client()
}

async fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

fn request(url: &str) -> HttpRequest {
    let mut request = HttpRequest::empty();
    request.set_uri(url.to_owned()).unwrap();
    request
}

async fn answer(stream: &mut TcpStream) {
    let request = stream.read(&mut [0; 4096]).await.unwrap();
    assert!(request > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn plain_http_requests_to_other_machines_are_not_sent() {
    let (listener, url) = server().await;
    let mut settings = ConnectionSettings::default();
    settings.hosts.set("kms.example", vec![listener.local_addr().unwrap().ip()]);
    let https = Connections::new(settings, Arc::default()).unwrap().client();
    let url = url.replace("127.0.0.1", "kms.example");
    let mut exchange = https.send(request(&url)).unwrap();
    let (head, none) = tokio::join!(exchange.head(), async {
        timeout(Duration::from_millis(50), listener.accept()).await.is_err()
    });
    let error = format!("{:?}", head.unwrap_err());
    assert!(error.contains("plain http://") && none, "{error}");
}

/// Or the retries after the first failures would lose the connections that they have just made.
#[tokio::test]
async fn failures_at_once_close_what_was_idle_once() {
    let https = https();
    let old = https.current.load_full();
    assert!(https.replace(&old, Duration::ZERO));
    let fresh = https.current.load_full();
    assert!(!https.replace(&old, Duration::ZERO));
    assert!(Arc::ptr_eq(&fresh, &https.current.load_full()));
}

#[tokio::test]
async fn running_requests_survive_the_close_of_idle_connections() {
    let https = https();
    let (listener, url) = server().await;
    let mut first = https.send(request(&url)).unwrap();
    let serve = async {
        let mut stream = listener.accept().await.unwrap().0;
        answer(&mut stream).await;
        stream
    };
    let (head, mut stream) = tokio::join!(first.head(), serve);
    head.unwrap();
    assert!(!first.is_on_reused());

    let mut second = https.send(request(&url)).unwrap();
    assert!(https.replace(&second.over, Duration::ZERO));
    let (head, ()) = tokio::join!(second.head(), answer(&mut stream));
    head.unwrap();
    assert!(second.is_on_reused());
    drop(second);
    drop(first);
    // The connection closes once its request has ended.
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_may_set_shorter_limits() {
    let https = https();
    let (listener, url) = server().await;
    let short = Some(Duration::from_millis(20));
    let mut exchange = https.send(request(&url)).unwrap();
    let error = exchange.head_within(None, short).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    let mut exchange = https.send(request(&url)).unwrap();
    let serve = async { answer(&mut listener.accept().await.unwrap().0).await };
    // The first of the two connections belongs to the cancelled request.
    let _given_up = listener.accept().await.unwrap();
    let (head, ()) = tokio::join!(exchange.head_within(None, None), serve);
    assert_eq!(head.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn the_meaning_of_a_failure_depends_on_responses_to_other_requests() {
    let https = https();
    let (listener, url) = server().await;
    let mut first = https.send(request(&url)).unwrap();
    let serve = async {
        let mut stream = listener.accept().await.unwrap().0;
        answer(&mut stream).await;
        stream
    };
    let (head, stream) = tokio::join!(first.head(), serve);
    head.unwrap();
    let timed_out = ConnectorError::timeout("late".into());
    let broken = ConnectorError::io("reset".into());
    assert_eq!(first.failed(&broken), None);

    let mut second = https.send(request(&url)).unwrap();
    second.head_within(None, Some(Duration::from_millis(1))).await.unwrap_err();
    // Another request on a reused connection got a response meanwhile: the server is slow.
    *second.over.answered() = Some(time::monotonic() + Duration::from_millis(1));
    assert_eq!(second.failed(&timed_out), Some(Stale::Failure));
    assert_eq!(second.failed(&timed_out), Some(Stale::FailureAgain));
    // A reset concerns only that connection, as long as there is credit.
    assert_eq!(second.failed(&broken), Some(Stale::TryAgain));
    assert_eq!(second.failed(&broken), Some(Stale::FailureAgain));
    *second.over.answered() = None;
    https.credit.store(1, Relaxed);
    assert_eq!(second.failed(&timed_out), Some(Stale::TryAgain));
    drop(stream);
}

#[tokio::test]
async fn a_cancelled_request_without_response_closes_the_idle_connections() {
    for (waited, others_are_answered, ends) in
        [(Duration::ZERO, false, false), (SILENCE, true, false), (SILENCE, false, true)]
    {
        let https = https();
        let (listener, url) = server().await;
        let mut first = https.send(request(&url)).unwrap();
        let serve = async {
            let mut stream = listener.accept().await.unwrap().0;
            answer(&mut stream).await;
            stream
        };
        let (head, _stream) = tokio::join!(first.head(), serve);
        head.unwrap();
        let before = https.current.load_full();

        let mut second = https.send(request(&url)).unwrap();
        // Waits until the request has a connection.
        let connected = second.head_within(None, Some(Duration::ZERO)).await;
        assert!(connected.unwrap_err().is_timeout());
        if others_are_answered {
            *before.answered() = Some(time::monotonic());
        }
        tokio::time::pause();
        tokio::time::advance(waited).await;
        drop(second);
        tokio::time::resume();
        assert_eq!(!Arc::ptr_eq(&before, &https.current.load_full()), ends, "{waited:?}");
    }
}

#[tokio::test]
async fn connections_from_before_a_suspension_are_not_reused() {
    let https = https();
    let suspended = time::suspended();
    let before = https.group(suspended);
    assert!(Arc::ptr_eq(&before, &https.group(suspended + NAP)));
    let after = https.group(suspended + NAP * 2);
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&after, &https.group(suspended + NAP * 2)));
}
