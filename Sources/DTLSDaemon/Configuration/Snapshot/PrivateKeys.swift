import DTLSEngine

extension Configuration {
    /// Takes all private keys out, for the key process.
    /// - Returns: each key once, with all that it is used for.
    mutating func separatePrivateKeys() throws(CredentialsError) -> [PrivateKeyMaterial] {
        var all: [PrivateKeyMaterial] = []
        for index in services.indices { all += try services[index].tls.separatePrivateKeys() }
        for index in clients.indices { all += try clients[index].tls.separatePrivateKeys() }
        var places: [[UInt8]: Int] = [:]
        var distinct: [PrivateKeyMaterial] = []
        for key in all {
            if let place = places[key.privateKey] {
                distinct[place].uses.formUnion(key.uses)
            } else {
                places[key.privateKey] = distinct.count
                distinct.append(key)
            }
        }
        return distinct
    }
}
