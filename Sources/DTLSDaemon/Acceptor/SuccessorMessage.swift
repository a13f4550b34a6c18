import LinuxSystem
import Primitives

/// A message from the main process to its successor, which may be a program of another version.
///
/// ``offer(protocolVersion:layoutVersion:)`` keeps its form in all versions. The others have the form of the version
/// that was offered.
enum MessageToSuccessor: Equatable {
    /// The first message. A successor that cannot go on with these versions refuses.
    /// - layoutVersion: ``DTLSTransport/SlotFile/layoutVersion`` of the connections.
    case offer(protocolVersion: UInt32, layoutVersion: UInt32)
    /// A descriptor comes along, by the name that the service manager has passed it by, or would pass it by at the next
    /// start (``StoredItem``). The files with the connections come after ``MessageFromSuccessor/prepared``.
    case descriptor(name: String)
    /// All descriptors were sent that there are before ``MessageFromSuccessor/prepared``.
    case prepare
    /// All files with connections were sent, and nobody else serves them: read the listeners.
    case takeOver
    /// The successor is the main process of the daemon.
    /// - isReloadRequested: SIGHUP came during the upgrade.
    case becomeMain(isReloadRequested: Bool)

    static let protocolVersion: UInt32 = 1

    private enum Kind: UInt8 {
        case offer = 1
        case descriptor = 2
        case prepare = 3
        case takeOver = 4
        case becomeMain = 5
    }

    var bytes: [UInt8] {
        var writer = ByteWriter()
        switch self {
        case .offer(let protocolVersion, let layoutVersion):
            writer.integer(Kind.offer.rawValue)
            writer.integer(protocolVersion)
            writer.integer(layoutVersion)
        case .descriptor(let name):
            writer.integer(Kind.descriptor.rawValue)
            writer.string(name)
        case .prepare: writer.integer(Kind.prepare.rawValue)
        case .takeOver: writer.integer(Kind.takeOver.rawValue)
        case .becomeMain(let isReloadRequested):
            writer.integer(Kind.becomeMain.rawValue)
            writer.bool(isReloadRequested)
        }
        return writer.bytes
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .offer:
            self = .offer(protocolVersion: try reader.integer(), layoutVersion: try reader.integer())
        case .descriptor: self = .descriptor(name: try reader.string())
        case .prepare: self = .prepare
        case .takeOver: self = .takeOver
        case .becomeMain: self = .becomeMain(isReloadRequested: try reader.bool())
        }
    }
}

/// A message from the successor to the main process.
enum MessageFromSuccessor: Equatable {
    /// The workers have the configuration, and the listeners are bound. Nothing is read yet.
    case prepared
    /// The successor cannot take over, and ends. It comes before ``serving`` only.
    case refused(reason: String)
    /// The workers have the connections, and the listeners are read.
    case serving

    private enum Kind: UInt8 {
        case prepared = 1
        case refused = 2
        case serving = 3
    }

    /// The longest reason, in bytes.
    private static let maximumReason = 4_096

    var bytes: [UInt8] {
        var writer = ByteWriter()
        switch self {
        case .prepared: writer.integer(Kind.prepared.rawValue)
        case .refused(let reason):
            writer.integer(Kind.refused.rawValue)
            writer.string(String(decoding: reason.utf8.prefix(Self.maximumReason), as: UTF8.self))
        case .serving: writer.integer(Kind.serving.rawValue)
        }
        return writer.bytes
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        guard let kind = Kind(rawValue: try reader.integer()) else { throw MalformedBytes() }
        switch kind {
        case .prepared: self = .prepared
        case .refused: self = .refused(reason: try reader.string())
        case .serving: self = .serving
        }
    }
}
