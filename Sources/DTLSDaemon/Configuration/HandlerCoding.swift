import DTLSKit

// A service's handler as the bytes that go from one process to another.

extension HandlerConfiguration {
    private enum Kind: UInt8 {
        case echo, forward
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .echo: writer.integer(Kind.echo.rawValue)
        case .forward(let configuration):
            writer.integer(Kind.forward.rawValue)
            configuration.write(to: &writer)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch Kind(rawValue: try reader.integer()) {
        case .echo: self = .echo
        case .forward: self = .forward(try ForwardConfiguration(from: &reader))
        case nil: throw MalformedBytes()
        }
    }
}

extension ForwardConfiguration {
    fileprivate func write(to writer: inout ByteWriter) { backend.write(to: &writer) }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(backend: try Backend(from: &reader))
    }
}

extension Backend {
    private enum Kind: UInt8 {
        case udp, unix
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .udp(let address):
            writer.integer(Kind.udp.rawValue)
            writer.address(address)
        case .unix(let path):
            writer.integer(Kind.unix.rawValue)
            writer.string(path)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch Kind(rawValue: try reader.integer()) {
        case .udp: self = .udp(try reader.address())
        case .unix: self = .unix(try reader.string())
        case nil: throw MalformedBytes()
        }
    }
}
