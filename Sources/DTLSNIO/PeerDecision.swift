#if NIO
    import DTLSEngine
    import DTLSKit
    import NIOCore

    /// The program's word on a peer whose handshake waits for it.
    enum PeerDecision {
        /// - Parameters:
        ///   - decide: `nil`: nobody can be asked, and the peer is refused.
        ///   - key: of the client's identity, where the program has just given it.
        ///   - answer: is called on the event loop.
        static func ask(
            _ decide: ((DtlsPeer) -> EventLoopFuture<DtlsPeerVerdict>)?, _ peer: DtlsPeer, key: [UInt8]? = nil,
            on eventLoop: any EventLoop, _ answer: @escaping (AuthorizationAnswer) -> Void
        ) {
            guard let decide else {
                return answer(.refused(reason: "nobody can be asked about the peer (onPeer)"))
            }
            decide(peer).hop(to: eventLoop).assumeIsolated().whenComplete { result in
                switch result {
                case .success(.accepted): answer(.allowed(key: key))
                case .success(.refused(let alert, let reason)):
                    answer(.refused(reason: reason, alert: alert.rawValue))
                case .failure(let error):
                    answer(.refused(reason: "the program could not decide about the peer: \(error)"))
                }
            }
        }
    }
#endif
