//! A RESP server that does nothing: the ceiling for any server on tokio with Larder's codec.
//!
//! Every request is decoded and answered: GET with a value of the given size, all else with OK.

use anyhow::Context;
use bytes::BytesMut;
use clap::Parser;
use larder_resp::{Decoder, Limits, Protocol, Replies, ReplyWriter};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Requests taken out of the buffer at a time.
const COMMANDS_MAX: usize = 1024;

/// A RESP server that does nothing.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    resp: String,
    /// Bytes of the value that GET answers.
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(&args.resp).await.context("bind the address")?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that leaves is no failure of the ceiling.
            let _ = serve(stream, args.value_bytes).await;
        });
    }
}

async fn serve(mut stream: TcpStream, value_bytes: usize) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let value = vec![b'x'; value_bytes];
    let mut decoder = Decoder::new(Limits::AFTER_AUTH);
    let (mut unread, mut replies) = (BytesMut::new(), Replies::default());
    loop {
        let pipeline = decoder.decode(&mut unread, COMMANDS_MAX)?;
        if pipeline.is_empty() {
            unread.reserve(16 << 10);
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
            continue;
        }
        let mut writer = ReplyWriter::new(&mut replies, Protocol::Resp2);
        for request in &pipeline {
            if request.arg(0).eq_ignore_ascii_case(b"get") {
                writer.bulk(&value);
            } else if request.arg(0).eq_ignore_ascii_case(b"config") {
                writer.array(0);
            } else {
                writer.simple("OK");
            }
        }
        decoder.recycle(pipeline);
        for piece in replies.pieces() {
            stream.write_all(piece).await?;
        }
        replies.clear();
    }
}
