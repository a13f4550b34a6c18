#if NIO
    import DTLSKit
    import NIOCore

    /// An inbound user event: the handshake of this channel's connection is done, and messages may follow.
    ///
    /// `TLSUserEvent.handshakeCompleted` of NIOTLS comes right after it, for handlers that know that one.
    public struct DTLSHandshakeCompleted: Sendable, Equatable {
        /// The peer's address.
        public let remoteAddress: SocketAddress
        /// Who the peer is, as far as the handshake has shown that.
        public let peer: DtlsPeer
        /// The version, the cipher suite, the application protocol (ALPN), and the like.
        public let agreement: DtlsAgreement
        /// What the next connection can resume, where the client's options say that it is kept (`keepsSession`) and the
        /// server has given something for it.
        public let session: DtlsSession?
        /// Bytes of the largest message that the peer takes: 16,384, unless it has asked for less (RFC 6066, section 4).
        public let largestMessage: Int
    }

    /// An inbound user event in the channel of a ``DTLSServerHandler``: the handshake of a client has failed, whose address
    /// was proven. The channel and the other clients are not concerned.
    public struct DTLSHandshakeFailed: Sendable, Equatable {
        /// The client's address.
        public let remoteAddress: SocketAddress
        /// Why the handshake has failed.
        public let error: DtlsError
    }
#endif
