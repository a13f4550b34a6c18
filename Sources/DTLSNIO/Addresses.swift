#if NIO
    import DTLSTransport
    import LinuxSystem
    import NIOCore

    extension LinuxSystem.SocketAddress {
        /// `nil` for an address that is no IP address.
        init?(_ address: NIOCore.SocketAddress) {
            let converted = address.withSockAddr { pointer, size in
                LinuxSystem.SocketAddress(UnsafeRawPointer(pointer), length: size)
            }
            guard let converted else { return nil }
            self = converted
        }
    }

    extension FlowKey {
        /// The flow of a channel's datagrams from or to a peer; `nil` for a peer without an IP address or port, which cannot
        /// be answered.
        /// - Parameter local: the channel's own address, where it has one.
        init?(peer: NIOCore.SocketAddress, local: NIOCore.SocketAddress?) {
            guard let peer = LinuxSystem.SocketAddress(peer), peer.port != 0 else { return nil }
            let own = local.flatMap { LinuxSystem.SocketAddress($0) }
            self.init(peer: peer, local: own ?? .anyAddress(peer.family, port: 0))
        }
    }
#endif
