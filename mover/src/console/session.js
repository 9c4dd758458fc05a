// Who uses this console, and what the server lets them do. The server decides; this only hides what it would refuse.

const RANKS = { viewer: 1, operator: 2, admin: 3 };

export const session = { me: null };

/** Whether who is logged in has at least this role. */
export const can = (role) => (RANKS[session.me?.role] ?? 0) >= RANKS[role];
