//! A small admin port: answers as a test's script says, and remembers what it was asked.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use serde_json::Value as Json;
use tokio::sync::oneshot;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    /// `null` where there is none.
    pub(crate) body: Json,
    pub(crate) authorization: Option<String>,
}

/// A server on a free loopback port; ends with this value.
pub(crate) struct Admin {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Starts one that answers each request with the status and body that `script` gives.
    pub(crate) fn start(script: impl Fn(&Asked) -> (u16, Json) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// The same on a port of the test's choice.
    pub(crate) fn start_on(
        listener: TcpListener,
        script: impl Fn(&Asked) -> (u16, Json) + Send + Sync + 'static,
    ) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let remembered = Arc::clone(&asked);
        let script = Arc::new(script);
        let answer = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let authorization = headers.get(header::AUTHORIZATION);
            let one = Asked {
                method: method.to_string(),
                path: uri.path().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
            };
            let (status, body) = script(&one);
            remembered.lock().unwrap().push(one);
            let body = if body.is_null() { String::new() } else { body.to_string() };
            (StatusCode::from_u16(status).unwrap(), body)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, Router::new().fallback(answer))
                    .with_graceful_shutdown(async { ended.await.unwrap_or_default() })
                    .await
                    .unwrap();
            });
        });
        Self { address, asked, end: Some(end), thread: Some(thread) }
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = self.end.take().map(|end| end.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
