import DTLSTransport
import LinuxSystem
import Primitives

/// A message over the channel between a program and one of its tasks, in either direction.
enum TaskMessage {
    /// A named server, or a new certificate of one: a sealed memfd comes along.
    case identity
    /// A value, with a descriptor where it has one. Where that is a new client's socket, the client's hello goes along.
    case value(TaskValue, Handover?)
    /// A misdelivered datagram: the listener has received it, and it belongs to a connection that was sent to the task
    /// moments ago.
    case forConnection(number: UInt64, datagram: UnsafeRawBufferPointer)
    /// A misdelivered datagram: a connection's socket has yielded it, and it belongs to the listener.
    case forListener(server: String, flow: FlowKey, datagram: UnsafeRawBufferPointer)
    /// A datagram that the listener has received by this flow, and whose connection ID (RFC 9146) is that of a connection
    /// of the task's, whose client may be at another address now. Nobody has authenticated it.
    case record(number: UInt64, flow: FlowKey, datagram: UnsafeRawBufferPointer)
    /// The client of a connection is at another flow: the task needs a socket that is connected there.
    case wantSocket(server: String, number: UInt64, flow: FlowKey)
    /// The socket that the task wants comes along, unless none could be made; with what came over it.
    case socket(number: UInt64, flow: FlowKey, datagrams: [[UInt8]])
    /// A datagram for a client that no socket is connected to yet. The listener sends it.
    case fromListener(server: String, flow: FlowKey, datagram: UnsafeRawBufferPointer)
    /// A connection that has a connection ID has ended in the task.
    case ended(server: String, number: UInt64)

    /// The datagrams that a new client has sent so far, or the state of a connection.
    struct Handover {
        let server: String
        let number: UInt64
        /// A ``VerifiedHello`` as it is handed over; `nil` where the client's hello has not come yet.
        let hello: [UInt8]?
        /// What came after the hello.
        var datagrams: [[UInt8]]
        /// The state of a connection whose handshake is done; see ``DtlsConnection/suspend()``.
        var state: [UInt8]?
        /// What the client is to put into its records, where the server has connection IDs; 0 bytes for none.
        var connectionID: [UInt8] = []
    }

    private enum Kind: UInt8 {
        case identity = 1
        case value, forConnection, forListener, record, wantSocket, socket, fromListener, ended
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        switch self {
        case .identity: writer.integer(Kind.identity.rawValue)
        case .value(let value, let handover):
            writer.integer(Kind.value.rawValue)
            value.write(to: &writer)
            writer.optional(handover) {
                $0.string($1.server)
                $0.integer($1.number)
                $0.optional($1.hello) { $0.data($1) }
                $0.list($1.datagrams) { $0.data($1) }
                $0.optional($1.state) { $0.data($1) }
                $0.data($1.connectionID)
            }
        case .forConnection(let number, let datagram):
            writer.integer(Kind.forConnection.rawValue)
            writer.integer(number)
            writer.data(datagram)
        case .forListener(let server, let flow, let datagram):
            writer.integer(Kind.forListener.rawValue)
            writer.string(server)
            writer.flow(flow)
            writer.data(datagram)
        case .record(let number, let flow, let datagram):
            writer.integer(Kind.record.rawValue)
            writer.integer(number)
            writer.flow(flow)
            writer.data(datagram)
        case .wantSocket(let server, let number, let flow):
            writer.integer(Kind.wantSocket.rawValue)
            writer.string(server)
            writer.integer(number)
            writer.flow(flow)
        case .socket(let number, let flow, let datagrams):
            writer.integer(Kind.socket.rawValue)
            writer.integer(number)
            writer.flow(flow)
            writer.list(datagrams) { $0.data($1) }
        case .fromListener(let server, let flow, let datagram):
            writer.integer(Kind.fromListener.rawValue)
            writer.string(server)
            writer.flow(flow)
            writer.data(datagram)
        case .ended(let server, let number):
            writer.integer(Kind.ended.rawValue)
            writer.string(server)
            writer.integer(number)
        }
        return writer.bytes
    }

    /// - Parameter descriptor: the number of the one that came along, or -1.
    init(decoding bytes: UnsafeRawBufferPointer, descriptor: Int32) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .identity: self = .identity
        case .value:
            let value = try TaskValue(reading: &reader, descriptor: descriptor)
            let handover = try reader.optional { reader throws(MalformedBytes) in
                Handover(
                    server: try reader.string(), number: try reader.integer(),
                    hello: try reader.optional { reader throws(MalformedBytes) in try reader.array() },
                    datagrams: try reader.list { reader throws(MalformedBytes) in try reader.array() },
                    state: try reader.optional { reader throws(MalformedBytes) in try reader.array() },
                    connectionID: try reader.array())
            }
            self = .value(value, handover)
        case .forConnection:
            self = .forConnection(number: try reader.integer(), datagram: try reader.data())
        case .forListener:
            self = .forListener(
                server: try reader.string(), flow: try reader.flow(), datagram: try reader.data())
        case .record:
            self = .record(number: try reader.integer(), flow: try reader.flow(), datagram: try reader.data())
        case .wantSocket:
            self = .wantSocket(
                server: try reader.string(), number: try reader.integer(), flow: try reader.flow())
        case .socket:
            self = .socket(
                number: try reader.integer(), flow: try reader.flow(),
                datagrams: try reader.list { reader throws(MalformedBytes) in try reader.array() })
        case .fromListener:
            self = .fromListener(
                server: try reader.string(), flow: try reader.flow(), datagram: try reader.data())
        case .ended: self = .ended(server: try reader.string(), number: try reader.integer())
        }
    }

    /// A value's message, and the descriptor that is to go with it or -1.
    static func encode(
        _ value: TaskValue, handover: Handover?
    ) throws(DtlsError) -> (bytes: [UInt8], descriptor: Int32) {
        let descriptors = value.descriptors
        guard descriptors.count <= 1 else {
            throw .invalid("a message carries at most one descriptor; this one has \(descriptors.count)")
        }
        let bytes = TaskMessage.value(value, handover).encode()
        guard bytes.count <= UnixChannel.maximumMessageSize else {
            throw .invalid(
                "a message of \(bytes.count) bytes: it may have \(UnixChannel.maximumMessageSize), with what goes along"
            )
        }
        return (bytes, descriptors.first ?? -1)
    }
}

extension ByteWriter {
    fileprivate mutating func flow(_ flow: FlowKey) {
        address(flow.peer)
        address(flow.local)
    }
}

extension ByteReader {
    fileprivate mutating func flow() throws(MalformedBytes) -> FlowKey {
        FlowKey(peer: try address(), local: try address())
    }
}
