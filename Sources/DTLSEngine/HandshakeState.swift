import COpenSSL

/// The states of OpenSSL's handshake that matter here.
///
/// They are known by their names (`SSL_state_string`, the same from 1.1.0 on). Their numbers (`SSL_get_state`) are
/// those of the headers: OpenSSL 3.2 put new states between the others, so that a program built with 3.0 takes one for
/// another.
enum HandshakeState: Equatable {
    /// A client has written its ClientHello (TLS_ST_CW_CLNT_HELLO).
    case clientHelloWritten
    /// The peer's ChangeCipherSpec has been read (TLS_ST_CR_CHANGE, TLS_ST_SR_CHANGE).
    case changeCipherSpecRead
    case other

    init(_ ssl: OpaquePointer) {
        switch SSL_state_string(ssl).map({ String(cString: $0) }) {
        case "TWCH": self = .clientHelloWritten
        case "TRCCS": self = .changeCipherSpecRead
        default: self = .other
        }
    }
}
