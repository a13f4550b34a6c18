import DTLSEngine

extension Configuration {
    /// Takes all keys out, for the key process.
    mutating func separateKeys() throws(CredentialsError) -> KeyMaterial {
        var material = KeyMaterial()
        material.privateKeys = try separatePrivateKeys()
        for index in services.indices {
            if let keys = try services[index].tls.separatePresharedKeys() { material.presharedKeys.append(keys) }
        }
        for index in clients.indices {
            if let key = try clients[index].tls.separatePresharedKey() { material.presharedKeys.append(key) }
        }
        return material
    }

    /// - Returns: each key once, with all that it is used for.
    private mutating func separatePrivateKeys() throws(CredentialsError) -> [PrivateKeyMaterial] {
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
