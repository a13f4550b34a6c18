#if NIO
    import DTLSKit
    import DTLSNIO
    import NIOCore
    import NIOTLS
    import Synchronization

    /// Notes what a channel's pipeline is told, as short texts, and sends messages back where it is to. It can be read from any
    /// thread.
    final class Recorder: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer

        private struct Notes {
            var all: [String] = []
            var messages: [String] = []
            var errors: [any Error] = []
            var completed: [DTLSHandshakeCompleted] = []
            var failed: [DTLSHandshakeFailed] = []
        }

        private let notes = Mutex(Notes())
        private let echoes: Bool

        init(echoes: Bool = false) { self.echoes = echoes }

        /// All that was told, in order: "active", "message", "error", and the like.
        var all: [String] { notes.withLock { $0.all } }
        var messages: [String] { notes.withLock { $0.messages } }
        var errors: [any Error] { notes.withLock { $0.errors } }
        var completed: [DTLSHandshakeCompleted] { notes.withLock { $0.completed } }
        var failed: [DTLSHandshakeFailed] { notes.withLock { $0.failed } }

        private func note(_ text: String) { notes.withLock { $0.all.append(text) } }

        func channelActive(context: ChannelHandlerContext) {
            note("active")
            context.fireChannelActive()
        }

        func channelInactive(context: ChannelHandlerContext) {
            note("inactive")
            context.fireChannelInactive()
        }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let message = unwrapInboundIn(data)
            notes.withLock {
                $0.all.append("message")
                $0.messages.append(String(buffer: message))
            }
            if echoes { context.write(wrapOutboundOut(message), promise: nil) }
        }

        func channelReadComplete(context: ChannelHandlerContext) { if echoes { context.flush() } }

        func channelWritabilityChanged(context: ChannelHandlerContext) {
            note(context.channel.isWritable ? "writable" : "not writable")
        }

        func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
            switch event {
            case let event as DTLSHandshakeCompleted:
                note("completed")
                notes.withLock { $0.completed.append(event) }
            case let event as DTLSHandshakeFailed:
                note("failed")
                notes.withLock { $0.failed.append(event) }
            case TLSUserEvent.handshakeCompleted: note("TLS completed")
            case TLSUserEvent.shutdownCompleted: note("shutdown")
            default: note("\(event)")
            }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {
            note("error")
            notes.withLock { $0.errors.append(error) }
        }
    }
#endif
