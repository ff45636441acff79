-- Keys of a collection: its documents by key, each "<revision> <value>"; their keys by revision;
-- keys that were deleted by the revision of that; and {epoch, revision, floor}: when the collection
-- began, the revision of the last change, and that of the last deletion which is no longer among
-- the deleted keys.
local documents, live, gone, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

