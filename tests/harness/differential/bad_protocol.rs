//! Bytes that are not a request, and what mutes: what is answered before the connection is closed.

/// What is sent on a fresh connection, followed by the end of the stream. Where the bytes are
/// harmless, the servers answer and close because nothing more comes.
pub(crate) const BAD_REQUESTS: [&[u8]; 21] = [
    b"*1\r\n!3\r\nGET\r\n",
    b"*abc\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$\r\n",
    b"*2147483648\r\n",
    b"*-1\r\n*0\r\nPING\r\n",
    b"\r\n\r\nPING\r\n",
    b"PING\n",
    b"$5\r\nworld\r\n",
    b"SET k1 \"unbalanced\r\n",
    b"SET k1 'unbalanced\r\n",
    b"ECHO \"a\\x41\\n\\q\" \r\nECHO 'it\\'s'\r\n",
    b"ECHO \"a\"b\r\n",
    b"  PING   hello  \r\n",
    b"*1\r\n$9999999999\r\n",
    b"CLIENT REPLY OFF\r\n*1\r\n!3\r\nGET\r\n",
    b"CLIENT REPLY SKIP\r\n*abc\r\n",
    b"CLIENT REPLY OFF\r\nRESET\r\nPING\r\n",
    b"CLIENT REPLY SKIP\r\nRESET\r\nPING\r\n",
    b"*1\r\n$4\r\nPING\r\nECHO x\r\n*2\r\n$4\r\nECHO\r\n$1\r\ny\r\n",
];
