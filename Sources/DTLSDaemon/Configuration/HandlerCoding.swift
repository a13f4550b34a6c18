import DTLSTransport

// A service's handler as the bytes that go from one process to another.

extension HandlerConfiguration {
    private enum Kind: UInt8 {
        case echo, forward, exec, log
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .echo: writer.integer(Kind.echo.rawValue)
        case .forward(let configuration):
            writer.integer(Kind.forward.rawValue)
            configuration.write(to: &writer)
        case .exec(let configuration):
            writer.integer(Kind.exec.rawValue)
            configuration.write(to: &writer)
        case .log(let configuration):
            writer.integer(Kind.log.rawValue)
            configuration.write(to: &writer)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch Kind(rawValue: try reader.integer()) {
        case .echo: self = .echo
        case .forward: self = .forward(try ForwardConfiguration(from: &reader))
        case .exec: self = .exec(try ExecConfiguration(from: &reader))
        case .log: self = .log(try LogConfiguration(from: &reader))
        case nil: throw MalformedBytes()
        }
    }
}

extension ForwardConfiguration {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.list(backends) { $1.write(to: &$0) }
        writer.bool(proxyProtocol)
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        let backends = try reader.list { (reader) throws(MalformedBytes) in try Backend(from: &reader) }
        guard !backends.isEmpty else { throw MalformedBytes() }
        self.init(backends: backends, proxyProtocol: try reader.bool())
    }
}

extension Backend {
    private enum Kind: UInt8 {
        case udp, unix
    }

    fileprivate func write(to writer: inout ByteWriter) {
        writer.string(name)
        switch address {
        case .udp(let address):
            writer.integer(Kind.udp.rawValue)
            writer.address(address)
        case .unix(let path):
            writer.integer(Kind.unix.rawValue)
            writer.string(path)
        }
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        let name = try reader.string()
        switch Kind(rawValue: try reader.integer()) {
        case .udp: self.init(name: name, address: .udp(try reader.address()))
        case .unix: self.init(name: name, address: .unix(try reader.string()))
        case nil: throw MalformedBytes()
        }
    }
}
