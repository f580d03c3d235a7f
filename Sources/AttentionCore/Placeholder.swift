// AttentionCore
