#if NIO
    import DTLSKit
    import DTLSNIO
    import NIOCore
    import NIOPosix

    let option = DtlsClientOption(
        rejectUnauthorized: true, ca: try Dtls.readString("cert.pem"), server: "localhost")
    let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 2049

    let connection = try await DatagramBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connect(host: "127.0.0.1", port: port) { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(try DTLSClientHandler(option))
                return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
            }
        }
    try await connection.executeThenClose { messages, writer in
        // It leaves when the handshake is done. Where that fails, the loop throws.
        try await writer.write(ByteBuffer(string: "Hello"))
        for try await message in messages {
            print(String(buffer: message))
            break
        }
    }
#else
    print("This example needs the package's trait NIO: swift run --traits NIO NIOClient")
#endif
