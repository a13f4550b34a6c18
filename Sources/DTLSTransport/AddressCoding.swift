import LinuxSystem
import Primitives

extension ByteWriter {
    package mutating func address(_ value: SocketAddress) {
        integer(value.family.rawValue)
        integer(value.scope)
        value.withBytes { data($0) }
    }
}

extension ByteReader {
    package mutating func address() throws(MalformedBytes) -> SocketAddress {
        guard let family = SocketAddress.Family(rawValue: try integer()) else { throw MalformedBytes() }
        let scope: UInt32 = try integer()
        let raw = try data()
        guard raw.count > 2,
            let value = SocketAddress(
                family: family, addressBytes: UnsafeRawBufferPointer(rebasing: raw.dropLast(2)),
                port: UInt16(raw[raw.count - 2]) << 8 | UInt16(raw[raw.count - 1]), scope: scope)
        else { throw MalformedBytes() }
        return value
    }
}
