#if NIO
    import DTLSKit
    import DTLSNIO
    import NIOCore
    import NIOPosix

    let option = DtlsServerOption(cert: try Dtls.readString("cert.pem"), key: try Dtls.readString("cert.key"))

    /// Sends each message back.
    final class Echo: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer

        func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.write(data, promise: nil) }
        func channelReadComplete(context: ChannelHandlerContext) { context.flush() }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            if let event = event as? DTLSHandshakeCompleted {
                print("\(event.remoteAddress): \(event.agreement.cipher)")
            }
            context.fireUserInboundEventTriggered(event)
        }
    }

    let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2049
    let server = try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                let handler = try DTLSServerHandler(option) { client in
                    client.eventLoop.makeCompletedFuture { try client.pipeline.syncOperations.addHandler(Echo()) }
                }
                try channel.pipeline.syncOperations.addHandler(handler)
            }
        }
        .bind(host: "127.0.0.1", port: port).get()
    print("Listening on \(server.localAddress?.description ?? "nothing")")
    try await server.closeFuture.get()
#else
    print("This example needs the package's trait NIO: swift run --traits NIO NIOServer")
#endif
